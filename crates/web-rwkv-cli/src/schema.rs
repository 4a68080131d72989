//! Schemas: TOML or JSON, field name to description, in the order of the file.

use std::{fmt, fs, path::Path};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::Value;
use web_rwkv_gguf::Field;

use crate::Result;

/// A JSON object whose keys are read as they stand, the same one twice too.
struct Entries(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(json: D) -> std::result::Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Entries, A::Error> {
                let mut entries = vec![];
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        json.deserialize_map(Visit)
    }
}

/// Reads a schema: JSON, or else TOML.
pub(crate) fn read(path: &Path) -> Result<Vec<Field>> {
    let file = path.display();
    let text = fs::read_to_string(path).map_err(|e| format!("{file}: {e}"))?;
    Ok(parse(&text).map_err(|e| format!("{file}: {e}"))?)
}

fn parse(text: &str) -> std::result::Result<Vec<Field>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // JSON other than objects is no TOML with descriptions either.
    let is_json = text.trim_start().starts_with('{') || serde_json::from_str::<IgnoredAny>(text).is_ok();
    let entries = if is_json {
        serde_json::from_str::<Entries>(text).map_err(|e| format!("schema: {e}"))?.0
    } else {
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
            let line = e.span().map_or(1, |s| 1 + text[..s.start].matches('\n').count());
            format!("schema: line {line}: {}", e.message())
        })?;
        let json = |v| serde_json::to_value(v).map_err(|e| format!("schema: {e}"));
        table.into_iter().map(|(k, v)| Ok((k, json(v)?))).collect::<std::result::Result<_, String>>()?
    };
    if entries.is_empty() {
        return Err("schema: expected at least one field, found none".into());
    }
    let mut fields: Vec<Field> = vec![];
    for (name, value) in entries {
        if name.trim().is_empty() {
            return Err(format!("field `{name}`: expected a name, found none"));
        }
        if fields.iter().any(|f| f.name == name) {
            return Err(format!("field `{name}`: expected one, found a second"));
        }
        let Value::String(description) = value else {
            return Err(format!("field `{name}`: expected a description, found {value}"));
        };
        fields.push(Field { name, description });
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        parse(text).unwrap().into_iter().map(|f| format!("{}={}", f.name, f.description)).collect()
    }

    #[test]
    fn toml_and_json_keep_their_order() {
        assert_eq!(names("z = \"last\"\na = \"first\"\n"), ["z=last", "a=first"]);
        assert_eq!(names(" {\"z\": \"last\", \"a\": \"first\"}"), ["z=last", "a=first"]);
    }

    #[test]
    fn a_byte_order_mark_is_skipped() {
        assert_eq!(names("\u{feff}a = \"x\""), ["a=x"]);
        assert_eq!(names("\u{feff}{\"a\": \"x\"}"), ["a=x"]);
    }

    #[test]
    fn mistakes_are_named() {
        let error = |text| parse(text).err().unwrap();
        assert_eq!(error("a = 3"), "field `a`: expected a description, found 3");
        assert_eq!(error(""), "schema: expected at least one field, found none");
        assert!(error("a = \"x\"\nb = ").starts_with("schema: line 2: "));
        assert!(error("{\"a\": ").starts_with("schema: EOF"));
        assert_eq!(error(r#"{"a": "x", "b": "y", "a": "z"}"#), "field `a`: expected one, found a second");
        assert!(error("a = \"x\"\na = \"y\"").starts_with("schema: line 2: "));
        assert_eq!(error(r#"{"": "x"}"#), "field ``: expected a name, found none");
        assert_eq!(error("\" \" = \"x\""), "field ` `: expected a name, found none");
        for (json, found) in [("[\"a\", \"b\"]", "sequence"), ("\"a\"", "string \"a\""), ("7", "integer `7`")]
        {
            let expected = format!("schema: invalid type: {found}, expected an object");
            assert!(error(json).starts_with(&expected), "{}", error(json));
        }
    }
}
