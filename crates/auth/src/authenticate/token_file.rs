//! Static tokens: `--token-auth-file` (upstream: apiserver `pkg/authentication/token/tokenfile`).

use crate::identity::Identity;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// The largest token file, in bytes.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Reads a file of lines `token,user,uid[,"group1,group2"]`.
///
/// # Errors
/// What is wrong, with the file's name: unreadable, too large, or not in the format.
pub fn token_file(path: &Path) -> Result<HashMap<String, Identity>, String> {
    let at = path.display();
    let mut text = String::new();
    File::open(path)
        .and_then(|f| f.take(FILE_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(|e| format!("cannot read the token file '{at}': {e}"))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("the token file '{at}' is larger than {FILE_BYTES_MAX} bytes"));
    }
    parse_tokens(&text).map_err(|e| format!("token file '{at}' {e}"))
}

/// Reads the text of a token file. Of a token given twice the last line counts; lines without a token count not at all.
///
/// # Errors
/// Which record is wrong.
pub fn parse_tokens(text: &str) -> Result<HashMap<String, Identity>, String> {
    let mut out = HashMap::new();
    for fields in records(text)? {
        let [token, name, uid, rest @ ..] = fields.as_slice() else {
            let n = fields.len();
            return Err(format!("must have at least 3 columns (token, user name, user uid), found {n}"));
        };
        if token.is_empty() {
            continue;
        }
        let groups = rest.first().map(|g| g.split(',').map(str::to_owned).collect()).unwrap_or_default();
        let id = Identity { name: name.clone(), uid: uid.clone(), groups, ..Identity::default() };
        out.insert(token.clone(), id);
    }
    Ok(out)
}

/// The records of a CSV text as Go reads them: empty lines skipped, quoted fields may hold commas, quotes and lines.
fn records(text: &str) -> Result<Vec<Vec<String>>, String> {
    let text = text.replace("\r\n", "\n");
    let mut out = Vec::new();
    let mut line = 1;
    let mut rest = text.as_str();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('\n') {
            (rest, line) = (after, line + 1);
            continue;
        }
        let mut fields = Vec::new();
        loop {
            let (field, after) = field(rest).map_err(|e| format!("record on line {line}: {e}"))?;
            line += field.matches('\n').count();
            fields.push(field);
            match after.strip_prefix(',') {
                Some(next) => rest = next,
                None => {
                    rest = after.strip_prefix('\n').unwrap_or(after);
                    line += 1;
                    break;
                }
            }
        }
        out.push(fields);
    }
    Ok(out)
}

/// One field, and what follows it: nothing, a comma or a line's end.
fn field(text: &str) -> Result<(String, &str), &'static str> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let (plain, after) = text.split_at(text.find([',', '\n']).unwrap_or(text.len()));
        return if plain.contains('"') {
            Err("bare \" in non-quoted-field")
        } else {
            Ok((plain.to_owned(), after))
        };
    };
    let mut out = String::new();
    loop {
        let (inner, after) = rest.split_once('"').ok_or("extraneous or missing \" in quoted-field")?;
        out.push_str(inner);
        match after.strip_prefix('"') {
            Some(more) => {
                out.push('"');
                rest = more;
            }
            None if after.is_empty() || after.starts_with([',', '\n']) => return Ok((out, after)),
            None => return Err("extraneous or missing \" in quoted-field"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_format() {
        let text = "token1,user1,uid1\ntoken2,user2,uid2\r\n\ntoken3,user3,uid3,\"group1,group2\"\ntoken4,user4,uid4,group2\ntoken5,user5,uid5,group5,otherdata\ntoken6,user6,uid6,\n,user7,uid7\ntoken1,user8,uid8";
        let t = parse_tokens(text).expect("read");
        let id = |name: &str, uid: &str, groups: &[&str]| Identity {
            uid: uid.into(),
            ..Identity::new(name, groups)
        };
        assert_eq!(t.len(), 6);
        assert_eq!(t["token1"], id("user8", "uid8", &[]), "the last line counts");
        assert_eq!(t["token2"], id("user2", "uid2", &[]));
        assert_eq!(t["token3"], id("user3", "uid3", &["group1", "group2"]));
        assert_eq!(t["token4"], id("user4", "uid4", &["group2"]));
        assert_eq!(t["token5"], id("user5", "uid5", &["group5"]));
        assert_eq!(t["token6"], id("user6", "uid6", &[""]));
        assert!(parse_tokens("").expect("read").is_empty());
    }

    #[test]
    fn quoting_and_mistakes() {
        let t = parse_tokens("\"a\"\"b\",\"us\ner\",1").expect("read");
        assert_eq!(t["a\"b"].name, "us\ner");
        assert_eq!(
            parse_tokens("a,b").expect_err("refused"),
            "must have at least 3 columns (token, user name, user uid), found 2"
        );
        assert_eq!(
            parse_tokens("a,b,c\nx\"y,b,c").expect_err("refused"),
            "record on line 2: bare \" in non-quoted-field"
        );
        assert!(parse_tokens("\"a,b,c").is_err() && parse_tokens("\"a\"b,c,d").is_err());
        let missing = token_file(Path::new("/nonexistent/tokens")).expect_err("refused");
        assert!(missing.contains("/nonexistent/tokens"), "{missing}");
    }
}
