//! The functions, a file for each subject; a file's `ROWS` is what it adds to the table.

pub mod authorizer;
pub mod cidr;
pub mod convert;
pub mod format;
pub mod lists;
pub mod operators;
pub mod optional;
pub mod quantity;
pub mod regexes;
pub mod semver;
pub mod strings;
pub mod text_format;
pub mod time;
pub mod url;

use crate::functions::Row;

/// All rows, in an order in which the overloads of a name are tried.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    [
        operators::ROWS,
        convert::ROWS,
        time::ROWS,
        strings::ROWS,
        text_format::ROWS,
        regexes::ROWS,
        lists::ROWS,
        optional::ROWS,
        url::ROWS,
        quantity::ROWS,
        cidr::ROWS,
        semver::ROWS,
        format::ROWS,
        authorizer::ROWS,
    ]
    .into_iter()
    .flatten()
}
