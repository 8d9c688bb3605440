//! Amounts with units such as `100m`, `1.5Gi` or `2e3` (upstream: apimachinery `pkg/api/resource`).
//!
//! A value is exact: an integer of up to 38 digits times a power of ten, never finer than 10⁻⁹ (finer
//! amounts are rounded away from zero). The canonical text equals upstream's, including that a text which
//! upstream keeps as written is kept.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// How the text was written, and will be written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    /// `12M`
    #[default]
    DecimalSi,
    /// `12Mi`
    BinarySi,
    /// `12e6`
    DecimalExponent,
}

/// Why a text is no quantity; texts equal upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// An amount: `mantissa · 10^scale`.
#[derive(Clone, Debug, Default)]
pub struct Quantity {
    mantissa: i128,
    scale: i32,
    format: Format,
    /// The text as written where upstream keeps it.
    text: Option<Box<str>>,
    /// Upstream keeps it in digits without end, and not in 64 bits and a scale.
    long: bool,
}

const NANO: i32 = -9;
/// Texts longer than this are refused before any arithmetic; the longest exact value needs some 40 digits.
const MAX_TEXT: usize = 1024;
const MAX_DIGITS: usize = 38;

impl Quantity {
    /// A whole number.
    pub fn new(value: i64, format: Format) -> Self {
        Self { mantissa: value.into(), format, ..Self::default() }
    }

    /// A number of thousandths.
    pub fn from_milli(value: i64) -> Self {
        Self { mantissa: value.into(), scale: -3, ..Self::default() }
    }

    /// Reads a quantity (upstream: `ParseQuantity`).
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if text.is_empty() || text.len() > MAX_TEXT {
            return Err(ParseError::Format);
        }
        if text == "0" {
            return Ok(Self { text: Some(text.into()), ..Self::default() });
        }
        let parts = Parts::split(text)?;
        let (base, exponent, format) = interpret(parts.suffix).ok_or(ParseError::Suffix)?;
        if let Some(q) = parts.fast(text, base, exponent, format) {
            return Ok(q);
        }
        parts.exact(base, exponent, format)
    }

    /// The value rounded up (away from zero) to a whole number; saturates at the ends of i64.
    pub fn value(&self) -> i64 {
        self.scaled(0)
    }

    /// The value in thousandths, rounded up (away from zero); saturates.
    pub fn milli(&self) -> i64 {
        self.scaled(-3)
    }

    /// `ceil(self / 10^scale)`, away from zero; saturates.
    pub fn scaled(&self, scale: i32) -> i64 {
        let (n, _) = rescale(self.mantissa, self.scale, scale);
        i64::try_from(n).unwrap_or(if n < 0 { i64::MIN } else { i64::MAX })
    }

    /// [`Self::scaled`] as upstream has it (`ScaledValue`), which overflows: what is kept in 64 bits becomes nothing, of
    /// what is longer the low bits are left.
    pub fn overflowing(&self, scale: i32) -> i64 {
        let (n, exact) = rescale(self.mantissa, self.scale, scale);
        match (i64::try_from(n), self.long) {
            // what is cut off counts as one, whatever the sign
            (Ok(n), true) if !exact && n < 0 => n.wrapping_add(2),
            (Ok(n), _) => n,
            (Err(_), false) => 0,
            (Err(_), true) if self.scale >= scale => {
                let power = u32::try_from(i64::from(self.scale) - i64::from(scale)).unwrap_or(u32::MAX);
                // of 10^64 and more, the low bits are zeroes
                let factor = if power < 64 { 10i64.wrapping_pow(power) } else { 0 };
                (self.mantissa as i64).wrapping_mul(factor)
            }
            (Err(_), true) => n as i64,
        }
    }

    /// The value when it is a whole number that fits.
    pub fn as_i64(&self) -> Option<i64> {
        let (n, exact) = rescale(self.mantissa, self.scale, 0);
        exact.then(|| i64::try_from(n).ok()).flatten()
    }

    /// The nearest floating point number.
    pub fn as_f64(&self) -> f64 {
        self.mantissa as f64 * 10f64.powi(self.scale)
    }

    pub fn format(&self) -> Format {
        self.format
    }

    pub fn is_zero(&self) -> bool {
        self.mantissa == 0
    }

    /// -1, 0 or 1.
    pub fn sign(&self) -> i32 {
        self.mantissa.signum() as i32
    }

    /// Adds; a zero takes over the other's format. Saturates beyond 38 digits.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, i128::saturating_add);
    }

    /// Subtracts; see [`add`](Self::add).
    pub fn sub(&mut self, other: &Self) {
        self.combine(other, i128::saturating_sub);
    }

    fn combine(&mut self, other: &Self, op: fn(i128, i128) -> i128) {
        self.text = None;
        self.long |= other.long;
        if self.is_zero() {
            self.format = other.format;
            self.scale = other.scale;
        }
        let scale = if other.is_zero() { self.scale } else { self.scale.min(other.scale) };
        let (a, _) = rescale(self.mantissa, self.scale, scale);
        let (b, _) = rescale(other.mantissa, other.scale, scale);
        self.mantissa = op(a, b).max(-i128::MAX);
        self.scale = scale;
    }

    /// The canonical text (upstream: `CanonicalizeBytes`).
    fn canonical(&self) -> String {
        if self.mantissa == 0 {
            return "0".to_owned();
        }
        if self.format == Format::BinarySi {
            let small = self.cmp_i64(-1024) == Ordering::Greater && self.cmp_i64(1024) == Ordering::Less;
            if let (false, (mut n, true)) = (small, rescale(self.mantissa, self.scale, 0)) {
                let mut power = 0usize;
                while n % 1024 == 0 && power < BINARY.len() - 1 {
                    n /= 1024;
                    power += 1;
                }
                return format!("{n}{}", BINARY[power]);
            }
        }
        let (mut n, mut exponent) = (self.mantissa, self.scale);
        while n % 10 == 0 {
            n /= 10;
            exponent = exponent.saturating_add(1);
        }
        // The exponent becomes a multiple of three; zeroes are appended as text, so nothing overflows.
        let zeros = exponent.rem_euclid(3);
        let exponent = exponent - zeros;
        let digits = format!("{n}{}", &"00"[..zeros as usize]);
        if self.format == Format::DecimalExponent {
            return if exponent == 0 { digits } else { format!("{digits}e{exponent}") };
        }
        match DECIMAL.iter().find(|(_, e)| *e == exponent) {
            Some((suffix, _)) => format!("{digits}{suffix}"),
            // Upstream drops the exponent here and so changes the value; an exponent keeps it.
            None => format!("{digits}e{exponent}"),
        }
    }

    fn cmp_i64(&self, n: i64) -> Ordering {
        self.cmp(&Self::new(n, Format::DecimalSi))
    }
}

const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];

/// The mantissa at another scale, rounded away from zero, and whether nothing was lost. Saturates.
fn rescale(mantissa: i128, from: i32, to: i32) -> (i128, bool) {
    let power = i64::from(from) - i64::from(to);
    if mantissa == 0 || power == 0 {
        return (mantissa, true);
    }
    if power > 0 {
        let grown = u32::try_from(power)
            .ok()
            .and_then(|p| 10i128.checked_pow(p))
            .and_then(|f| mantissa.checked_mul(f));
        return match grown {
            Some(n) => (n, true),
            None => (if mantissa < 0 { -i128::MAX } else { i128::MAX }, false),
        };
    }
    match u32::try_from(-power).ok().and_then(|p| 10i128.checked_pow(p)) {
        Some(divisor) => {
            let (q, r) = (mantissa / divisor, mantissa % divisor);
            (q + if r == 0 { 0 } else { mantissa.signum() }, r == 0)
        }
        None => (mantissa.signum(), false),
    }
}

/// Base, exponent and format of a suffix (upstream: `suffixHandler.interpret`).
fn interpret(suffix: &str) -> Option<(u32, i32, Format)> {
    if let Some((_, e)) = DECIMAL.iter().find(|(s, _)| *s == suffix) {
        return Some((10, *e, Format::DecimalSi));
    }
    if let Some(i) = BINARY.iter().skip(1).position(|s| *s == suffix) {
        return Some((2, (i as i32 + 1) * 10, Format::BinarySi));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    exponent.parse().ok().map(|e| (10, e, Format::DecimalExponent))
}

/// The pieces of a text.
struct Parts<'a> {
    positive: bool,
    num: &'a str,
    denom: &'a str,
    suffix: &'a str,
}

impl<'a> Parts<'a> {
    /// Upstream: `parseQuantityString`.
    fn split(text: &'a str) -> Result<Self, ParseError> {
        let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
        let positive = !text.starts_with('-');
        let rest = text.strip_prefix(['-', '+']).unwrap_or(text).trim_start_matches('0');
        let n = digits(rest);
        let (num, rest) = rest.split_at(n);
        let (denom, suffix) = match rest.strip_prefix('.') {
            Some(r) => r.split_at(digits(r)),
            None => ("", rest),
        };
        let tail = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
        let tail = tail.strip_prefix(['-', '+']).unwrap_or(tail);
        if digits(tail) != tail.len() {
            return Err(ParseError::Format);
        }
        Ok(Self { positive, num: if num.is_empty() { "0" } else { num }, denom, suffix })
    }

    /// Upstream's path for values that fit an int64; it decides whether the text is kept.
    fn fast(&self, text: &str, base: u32, exponent: i32, format: Format) -> Option<Quantity> {
        let digits = (self.num.len() + self.denom.len()) as i32;
        let (mut scale, multiplier) = if base == 10 {
            if digits > 18 {
                return None;
            }
            (exponent, 1i64)
        } else {
            let precision = 15 - self.num.len() as i32 - exponent * 3 / 10 - 1;
            if !self.denom.is_empty() || precision < 0 {
                return None;
            }
            (0, 1i64 << exponent)
        };
        scale = scale.checked_sub(self.denom.len() as i32)?;
        if scale < NANO {
            return None;
        }
        let shifted = format!("{}{}", self.num, self.denom);
        let value: i64 = shifted.parse().ok()?;
        let result = value.checked_mul(multiplier)?;
        let keep = match format {
            Format::BinarySi => value & 7 != 0,
            _ => scale % 3 == 0 && !shifted.ends_with("000") && !shifted.starts_with('0'),
        };
        let mantissa = i128::from(if self.positive { result } else { -result });
        Some(Quantity { mantissa, scale, format, text: keep.then(|| text.into()), long: false })
    }

    /// The general path: exact arithmetic, rounded up to nano.
    fn exact(&self, base: u32, exponent: i32, mut format: Format) -> Result<Quantity, ParseError> {
        let shifted = format!("{}{}", self.num, self.denom);
        let significant = shifted.trim_start_matches('0');
        // Digits beyond nano and beyond 38 only decide the rounding; more before the point cannot be held.
        let (kept, cut) = significant.split_at(significant.len().min(MAX_DIGITS));
        let mut mantissa: i128 =
            if kept.is_empty() { 0 } else { kept.parse().map_err(|_| ParseError::Numeric)? };
        let fraction = i32::try_from(self.denom.len()).map_err(|_| ParseError::Numeric)?;
        let cut_len = cut.len() as i32;
        if cut_len > fraction && base == 10 {
            return Err(ParseError::Numeric);
        }
        let mut scale = cut_len - fraction;
        if cut.bytes().any(|b| b != b'0') {
            mantissa = mantissa.saturating_add(1);
        }
        if base == 10 {
            scale = scale.saturating_add(exponent);
        } else {
            mantissa = mantissa.checked_mul(1i128 << exponent).unwrap_or_else(|| {
                // Room is made by giving up digits that are far below nano or far above the cap.
                scale += 20;
                rescale(mantissa, 0, 20).0.saturating_mul(1i128 << exponent)
            });
        }
        if scale < NANO {
            mantissa = rescale(mantissa, scale, NANO).0;
            scale = NANO;
        }
        if format == Format::BinarySi {
            let cap = i128::from(i64::MAX);
            let (whole, exact) = rescale(mantissa, scale, 0);
            if whole > cap || (whole == cap && !exact) {
                (mantissa, scale) = (cap, 0);
            } else if whole <= 1 && !exact && mantissa > 0 {
                format = Format::DecimalSi;
            }
        }
        let mantissa = if self.positive { mantissa } else { -mantissa };
        Ok(Quantity { mantissa, scale, format, text: None, long: true })
    }
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        Self::parse(s)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.text {
            Some(t) => f.write_str(t),
            None => f.write_str(&self.canonical()),
        }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Order of the amounts; the format plays no part.
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        if self.mantissa.signum() != other.mantissa.signum()
            || self.mantissa == 0
            || self.scale == other.scale
        {
            return self.mantissa.cmp(&other.mantissa);
        }
        // The one with the larger scale is brought down; when that saturates it is the larger in magnitude.
        if self.scale > other.scale {
            rescale(self.mantissa, self.scale, other.scale).0.cmp(&other.mantissa)
        } else {
            self.mantissa.cmp(&rescale(other.mantissa, other.scale, self.scale).0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn q(s: &str) -> Quantity {
        Quantity::parse(s).unwrap_or_else(|e| panic!("{s}: {e}"))
    }

    #[test]
    fn too_much_overflows_as_upstream() {
        assert_eq!((q("1E20").overflowing(0), q("1E20").scaled(0)), (0, i64::MAX));
        assert_eq!(q("1E18").overflowing(0), 1_000_000_000_000_000_000);
        // 9999999999999999999999000 without all but 64 of its bits
        let long = 9_999_999_999_999_999_999_999_000i128 as i64;
        assert_eq!(q("9999999999999999999999").overflowing(-3), long);
        assert!(long % 1000 != 0);
        assert_eq!((q("1500m").overflowing(0), q("-1500m").overflowing(0)), (2, -2));
        assert_eq!(q("1e99").overflowing(-3), 0);
    }

    /// What `resource.ParseQuantity` of apimachinery v0.37.2 gives.
    #[test]
    fn canonical_texts() {
        let cases = [
            ("0", "0"),
            ("0n", "0"),
            ("0.0", "0"),
            ("-0", "0"),
            ("+", "0"),
            ("1024", "1024"),
            ("1024Ki", "1Mi"),
            ("1.5", "1500m"),
            ("1.5Gi", "1536Mi"),
            ("0.5Gi", "512Mi"),
            ("1000", "1k"),
            ("1000000", "1M"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("0.1m", "100u"),
            ("0.0001n", "1n"),
            ("1.1n", "2n"),
            ("-1.1n", "-2n"),
            ("5e3", "5e3"),
            ("5000e3", "5e6"),
            ("1e2", "100"),
            ("1E", "1E"),
            ("1Ei", "1Ei"),
            ("9Ei", "9223372036854775807"),
            ("12.345", "12.345"),
            ("0.025Ti", "27487790694400m"),
            ("1.500", "1.500"),
            ("01Ki", "01Ki"),
            ("+1", "+1"),
            ("1e4", "10e3"),
            ("1e-10", "1e-9"),
            ("10Ei", "9223372036854775807"),
            ("1.11111111111111111111", "1111111112n"),
            ("-1.5Gi", "-1536Mi"),
            ("0.9Ki", "921600m"),
            ("1.5Ki", "1536"),
            ("1e30", "1e30"),
            ("1100Mi", "1100Mi"),
            ("1.1Gi", "1181116006400m"),
            ("0.1Ki", "102400m"),
            ("100Gi", "100Gi"),
            ("8Ki", "8Ki"),
            ("16384Mi", "16Gi"),
            ("3.", "3."),
            (".5", "500m"),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            ("-1k", "-1k"),
            ("1.0", "1"),
        ];
        for (text, want) in cases {
            assert_eq!(q(text).to_string(), want, "{text}");
        }
        assert_eq!(q("0.025Ti").value(), 27_487_790_695);
    }

    #[test]
    fn bad_texts() {
        for bad in [
            "1.1.M", "1+1.0M", "0.1mi", "0.1am", "aoeu", ".5i", "1i", "-3.01i", "-3.01e-", " 1", "1 ", "",
            "1Kb", "--1",
        ] {
            assert!(Quantity::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Quantity::parse("1i").unwrap_err(), ParseError::Suffix);
        assert!(
            Quantity::parse("x")
                .unwrap_err()
                .to_string()
                .starts_with("quantities must match the regular expression '^(")
        );
    }

    #[test]
    fn values_round_up() {
        assert_eq!(q("100m").value(), 1);
        assert_eq!(q("1.5").milli(), 1500);
        assert_eq!(q("1u").milli(), 1);
        assert_eq!(q("-1500m").value(), -2);
        assert_eq!(q("1Gi").value(), 1 << 30);
        assert_eq!(q("1e30").value(), i64::MAX);
        assert_eq!(q("1500m").as_i64(), None);
        assert_eq!(q("2k").as_i64(), Some(2000));
    }

    #[test]
    fn order_and_sums() {
        assert!(q("1Ki") > q("1k"));
        assert_eq!(q("1000m"), q("1"));
        assert!(q("1e100") > q("1E") && q("-1e100") < q("1n"));
        let mut sum = q("0");
        sum.add(&q("1Gi"));
        sum.add(&q("512Mi"));
        assert_eq!(sum.to_string(), "1536Mi");
        sum.sub(&q("1536Mi"));
        assert!(sum.is_zero());
        let mut cpu = q("100m");
        cpu.add(&q("1"));
        assert_eq!(cpu.to_string(), "1100m");
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_text_never_panics(s in "\\PC{0,40}", t in "[-+]?[0-9.]{0,60}[eEKMGTPinumk]{0,2}[-+]?[0-9]{0,12}") {
            for x in [&s, &t] {
                if let Ok(v) = Quantity::parse(x) {
                    let _ = (v.value(), v.milli(), v.as_f64());
                    let mut w = v.clone();
                    w.add(&v);
                    w.sub(&Quantity::from_milli(3));
                    let _ = w.to_string();
                }
            }
        }

        #[test]
        fn canonical_text_keeps_the_value(n in proptest::num::i32::ANY, e in 0usize..9) {
            let suffix = ["", "m", "k", "M", "Ki", "Mi", "u", "n", "e3"][e];
            let v = q(&format!("{n}{suffix}"));
            let again = q(&v.to_string());
            proptest::prop_assert_eq!(&again, &v);
            proptest::prop_assert_eq!(again.to_string(), v.to_string());
        }
    }
}
