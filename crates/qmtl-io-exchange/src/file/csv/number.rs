//! Numbers as people and spreadsheets write them: `42,187.15`, `42.187,15`, `117.65K`, `$184.25`, `N/A`.

use crate::file::config::Decimal;

/// What stands for no value, in lower case. NaN is a value.
const NO_VALUE: [&[u8]; 8] = [b"null", b"na", b"n/a", b"#n/a", b"none", b"nil", b"-", b"--"];

/// What may stand before or behind an amount.
const CURRENCIES: [&str; 5] = ["$", "€", "£", "¥", "₿"];

/// What an amount may be counted in, as the exponent that it stands for.
const UNITS: [(u8, &str); 4] = [(b'k', "e3"), (b'm', "e6"), (b'b', "e9"), (b't', "e12")];

/// Whether a field says that there is no value.
pub(super) fn is_null(field: &[u8]) -> bool {
    let field = field.trim_ascii();
    if field.first().is_some_and(u8::is_ascii_digit) {
        return false;
    }
    field.is_empty() || NO_VALUE.iter().any(|word| field.eq_ignore_ascii_case(word))
}

/// How the numbers of a file are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Notation {
    pub(super) decimal: Decimal,
    /// Whether the other one of comma and point stands between thousands.
    pub(super) is_grouped: bool,
}

impl Notation {
    /// As programs write them.
    pub(super) const PLAIN: Self = Self { decimal: Decimal::Point, is_grouped: false };

    /// Whether a field that reads as a plain number is one here too.
    pub(super) fn is_plain(self) -> bool {
        self.decimal == Decimal::Point
    }

    /// The nearest double of a number, blanks around it ignored.
    pub(super) fn number(self, field: &[u8]) -> Option<f64> {
        if self.is_plain()
            && let Some(value) = number(field)
        {
            return Some(value);
        }
        number(&self.spelled(field)?)
    }

    /// Whether a field is a number that counts in no unit: `5m` may be five millions or five minutes.
    pub(super) fn is_number_alone(self, field: &[u8]) -> bool {
        self.number(field).is_some() && field.trim_ascii().last().is_none_or(|last| unit_of(*last).is_none())
    }

    /// A number without anything that `1234.5e6` lacks. `None` for what is no number.
    pub(super) fn spelled(self, field: &[u8]) -> Option<Vec<u8>> {
        let text = std::str::from_utf8(field).ok()?.trim();
        let (sign, text) = match text.as_bytes().first()? {
            b'-' => ("-", &text[1..]),
            b'+' => ("", &text[1..]),
            _ => ("", text),
        };
        let text = CURRENCIES.iter().fold(text, |text, mark| {
            text.strip_prefix(mark).or_else(|| text.strip_suffix(mark)).unwrap_or(text).trim()
        });
        let unit = unit_of(*text.as_bytes().last()?).unwrap_or_default();
        let text = if unit.is_empty() { text } else { text[..text.len() - 1].trim_end() };
        let (point, other) = match self.decimal {
            Decimal::Point => ('.', ','),
            Decimal::Comma => (',', '.'),
        };
        let (whole, fraction) = text.split_once(point).map_or((text, None), |(a, b)| (a, Some(b)));
        let separator = whole.chars().find(|c| !c.is_ascii_digit());
        let is_separator =
            |c: char| (c == other && self.is_grouped) || matches!(c, ' ' | '\'' | '\u{a0}' | '\u{202f}');
        let whole = match separator {
            None => whole.to_owned(),
            Some(mark) if is_separator(mark) => groups(whole, mark)?,
            Some(_) => return self.exponential(sign, whole, fraction).filter(|_| unit.is_empty()),
        };
        let digits = fraction.unwrap_or_default();
        let has_exponent = digits.contains(['e', 'E']);
        let has_digits = !whole.is_empty() || !digits.is_empty();
        let is_fraction =
            if has_exponent { unit.is_empty() } else { digits.bytes().all(|b| b.is_ascii_digit()) };
        let point = if fraction.is_some() { "." } else { "" };
        let spelled = format!("{sign}{whole}{point}{digits}{unit}").into_bytes();
        (has_digits && is_fraction && number(&spelled).is_some()).then_some(spelled)
    }

    /// A whole number with an exponent, such as `1e5`.
    fn exponential(self, sign: &str, whole: &str, fraction: Option<&str>) -> Option<Vec<u8>> {
        let spelled = format!("{sign}{whole}").into_bytes();
        let is_number = fraction.is_none() && whole.starts_with(|c: char| c.is_ascii_digit());
        (is_number && number(&spelled).is_some()).then_some(spelled)
    }
}

/// The exponent of the unit that a letter stands for.
fn unit_of(letter: u8) -> Option<&'static str> {
    let is_it = |(unit, _): &&(u8, &'static str)| unit.eq_ignore_ascii_case(&letter);
    UNITS.iter().find(is_it).map(|(_, exponent)| *exponent)
}

/// The digits of a number whose thousands are set apart.
fn groups(whole: &str, mark: char) -> Option<String> {
    let mut groups = whole.split(mark);
    let first = groups.next()?;
    let are_digits = |group: &str| group.bytes().all(|b| b.is_ascii_digit());
    // Nobody writes 123 as 0,123: there the mark stands before a fraction.
    let is_whole = (1..=3).contains(&first.len()) && are_digits(first) && !first.starts_with('0');
    let mut digits = first.to_owned();
    for group in groups {
        if group.len() != 3 || !are_digits(group) {
            return None;
        }
        digits.push_str(group);
    }
    is_whole.then_some(digits)
}

/// A plain decimal number, blanks around it ignored: the nearest double.
pub(super) fn number(field: &[u8]) -> Option<f64> {
    lexical_core::parse(field.trim_ascii()).ok()
}

/// A plain whole number, blanks around it ignored.
pub(super) fn integer(field: &[u8]) -> Option<i64> {
    lexical_core::parse(field.trim_ascii()).ok()
}

/// How many digits stand behind the point of a number of digits alone, or of digits and one point between them.
fn plain_fraction(field: &[u8]) -> Option<usize> {
    let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let whole = digits(field);
    match field.get(whole..)? {
        _ if whole == 0 => None,
        [] => Some(0),
        [b'.', fraction @ ..] if !fraction.is_empty() && digits(fraction) == fraction.len() => {
            Some(fraction.len())
        }
        _ => None,
    }
}

/// What numbers say about the notation of their file.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Signs {
    /// One has a comma before its fraction, or points between its thousands.
    comma: bool,
    /// One has a point before its fraction, or commas between its thousands.
    point: bool,
    /// One has commas or points between its thousands.
    is_grouped: bool,
    /// One has a comma that may be either.
    is_unclear: bool,
}

impl Signs {
    /// Takes in a field.
    pub(super) fn add(&mut self, field: &[u8]) {
        // As most are. Three digits behind a point may be thousands.
        match plain_fraction(field) {
            Some(0) => return,
            Some(digits) if digits != 3 || self.point => {
                self.point = true;
                return;
            }
            _ => {}
        }
        if !field.iter().any(|b| b",.".contains(b)) || !field.iter().any(u8::is_ascii_digit) {
            return;
        }
        let is_in = |decimal, is_grouped| Notation { decimal, is_grouped }.spelled(field).is_some();
        let is_point = is_in(Decimal::Point, true);
        match (is_point, is_in(Decimal::Comma, true)) {
            (false, false) => {}
            // A point alone is read as one, as programs write it.
            (true, true) => self.is_unclear |= field.contains(&b','),
            _ => {
                let decimal = if is_point { Decimal::Point } else { Decimal::Comma };
                self.point |= is_point;
                self.comma |= !is_point;
                self.is_grouped |= !is_in(decimal, false);
            }
        }
    }

    /// The notation that all say together; `None` where they contradict each other or do not tell.
    pub(super) fn notation(self) -> Option<Notation> {
        match (self.point, self.comma) {
            (true, true) => None,
            (true, false) => {
                Some(Notation { decimal: Decimal::Point, is_grouped: self.is_grouped || self.is_unclear })
            }
            (false, true) => Some(Notation { decimal: Decimal::Comma, is_grouped: true }),
            (false, false) => (!self.is_unclear).then_some(Notation::PLAIN),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUPED: Notation = Notation { decimal: Decimal::Point, is_grouped: true };
    const COMMA: Notation = Notation { decimal: Decimal::Comma, is_grouped: true };

    #[test]
    fn numbers_are_read_as_they_are_written() {
        for (notation, text, value) in [
            (Notation::PLAIN, "1.5", Some(1.5)),
            (Notation::PLAIN, " 1e5 ", Some(1e5)),
            (Notation::PLAIN, "1,500", None),
            (Notation::PLAIN, "$184.25", Some(184.25)),
            (Notation::PLAIN, "-$0.5", Some(-0.5)),
            (Notation::PLAIN, "117.65K", Some(117_650.0)),
            (Notation::PLAIN, "1.1B", Some(1.1e9)),
            (Notation::PLAIN, "12 345.5", Some(12_345.5)),
            (Notation::PLAIN, "12\u{a0}345", Some(12_345.0)),
            (Notation::PLAIN, "1.2.3", None),
            (Notation::PLAIN, "K", None),
            (Notation::PLAIN, "", None),
            (Notation::PLAIN, ".", None),
            (Notation::PLAIN, "-", None),
            (Notation::PLAIN, "4.67%", None),
            (Notation::PLAIN, "1e3K", None),
            (Notation::PLAIN, "NaN", Some(f64::NAN)),
            (GROUPED, "42,187.15", Some(42_187.15)),
            (GROUPED, "82,488,700", Some(82_488_700.0)),
            (GROUPED, "42187,15", None),
            (GROUPED, "4,21,871", None),
            (GROUPED, ",187", None),
            (GROUPED, "0,187", None),
            (COMMA, "42187,15", Some(42_187.15)),
            (COMMA, "42.187,15", Some(42_187.15)),
            (COMMA, "1.234", Some(1_234.0)),
            (COMMA, "1,5e3", Some(1_500.0)),
            (COMMA, "1e3", Some(1_000.0)),
            (COMMA, "1.5", None),
            (COMMA, "0.123", None),
            (COMMA, "117,65K", Some(117_650.0)),
        ] {
            let read = notation.number(text.as_bytes());
            assert!(
                read == value || (read.is_some_and(f64::is_nan) && value.is_some_and(f64::is_nan)),
                "{text}: {read:?}"
            );
        }
    }

    #[test]
    fn a_file_tells_its_notation() {
        let notation = |fields: &[&str]| {
            let mut signs = Signs::default();
            fields.iter().for_each(|field| signs.add(field.as_bytes()));
            signs.notation()
        };
        assert_eq!(notation(&["1", "2.5", "x", "1.234"]), Some(Notation::PLAIN));
        assert_eq!(notation(&["42,187.15", "1,000"]), Some(GROUPED));
        assert_eq!(notation(&["2.55", "1,000"]), Some(GROUPED));
        assert_eq!(notation(&["82,488,700"]), Some(GROUPED));
        assert_eq!(notation(&["42187,15", "82488"]), Some(COMMA));
        assert_eq!(notation(&["1,234", "1,5"]), Some(COMMA));
        assert_eq!(notation(&["1,234", "5,678"]), None);
        assert_eq!(notation(&["$1,234", "-5,678K"]), None);
        assert_eq!(notation(&["1.234", "0,123"]), Some(COMMA));
        assert_eq!(notation(&["0.123", "1,5"]), None);
        assert_eq!(notation(&["1.234", "a,1", "v1,5", "x,2,y"]), Some(Notation::PLAIN));
        assert_eq!(notation(&["1.25", "1,5"]), None);
    }

    #[test]
    fn what_has_no_value_is_said_in_many_words() {
        for word in ["", " ", "null", "NULL", "N/A", "#N/A", "-", "--", "None", "na"] {
            assert!(is_null(word.as_bytes()), "{word}");
        }
        for word in ["0", "NaN", "nullable", "x", "."] {
            assert!(!is_null(word.as_bytes()), "{word}");
        }
    }
}
