//! Schemas: TOML or JSON, field name to description, in the order of the file.

use std::{fs, path::Path};

use web_rwkv_gguf::Field;

use crate::Result;

/// Reads a schema; JSON begins with `{`.
pub(crate) fn read(path: &Path) -> Result<Vec<Field>> {
    let file = path.display();
    let text = fs::read_to_string(path).map_err(|e| format!("{file}: {e}"))?;
    Ok(parse(&text).map_err(|e| format!("{file}: {e}"))?)
}

fn parse(text: &str) -> std::result::Result<Vec<Field>, String> {
    let entries: Vec<(String, serde_json::Value)> = if text.trim_start().starts_with('{') {
        let map: serde_json::Map<_, _> = serde_json::from_str(text).map_err(|e| format!("schema: {e}"))?;
        map.into_iter().collect()
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
    let field = |(name, value): (String, serde_json::Value)| match value {
        serde_json::Value::String(description) => Ok(Field { name, description }),
        other => Err(format!("field `{name}`: expected a description, found {other}")),
    };
    entries.into_iter().map(field).collect()
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
    fn mistakes_are_named() {
        let error = |text| parse(text).err().unwrap();
        assert_eq!(error("a = 3"), "field `a`: expected a description, found 3");
        assert_eq!(error(""), "schema: expected at least one field, found none");
        assert!(error("a = \"x\"\nb = ").starts_with("schema: line 2: "));
        assert!(error("{\"a\": ").starts_with("schema: EOF"));
    }
}
