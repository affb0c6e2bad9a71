//! Typed access to the fields of a request body, with the conversions and the refusals of vLLM's request models.

use serde_json::{Map, Value};

use super::refuse::{ApiError, Violation, summary};

/// The fields of a JSON object; absent and null are the same.
#[derive(Debug, Default)]
pub(super) struct Fields(pub(super) Map<String, Value>);

impl Fields {
    /// The body as an object.
    pub(super) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        if body.is_empty() {
            return Err(ApiError::model("body", "missing", "Field required", "'None'", ""));
        }
        match serde_json::from_slice(body) {
            Ok(Value::Object(map)) => Ok(Self(map)),
            Ok(other) => Err(ApiError::model(
                "body",
                "model_attributes_type",
                "Input should be a valid dictionary or object to extract fields from",
                &summary(&other),
                "",
            )),
            Err(error) => Err(ApiError::json(body, &error)),
        }
    }

    pub(super) fn present(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// A whole number; numbers in texts and floats without a fraction are taken, as pydantic does.
    pub(super) fn integer(&self, name: &str) -> Result<Option<i64>, ApiError> {
        const LIMIT: &str = "9223372036854775807";
        let Some(value) = self.present(name) else { return Ok(None) };
        if let Value::Number(number) = value
            && number.as_i64().is_none()
            && let Some(number) = number.as_f64().filter(|number| number.fract() == 0.0 && *number > 9e18)
        {
            return Err(ApiError::model(
                &format!("body.{name}"),
                "less_than_equal",
                &format!("Input should be less than or equal to {LIMIT}"),
                &format!("'{number:.0}'"),
                &format!("{{'le': {LIMIT}}}"),
            ));
        }
        let whole = |number: f64| (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64);
        let parsed = match value {
            Value::String(text) => text.trim().parse().ok(),
            Value::Number(number) => number.as_i64().or_else(|| number.as_f64().and_then(whole)),
            Value::Bool(truth) => Some(i64::from(*truth)),
            _ => None,
        };
        parsed.map(Some).ok_or_else(|| {
            let (kind, text) = match value {
                Value::String(_) => {
                    ("int_parsing", "Input should be a valid integer, unable to parse string as an integer")
                }
                Value::Number(_) => {
                    ("int_from_float", "Input should be a valid integer, got a number with a fractional part")
                }
                _ => ("int_type", "Input should be a valid integer"),
            };
            ApiError::field(name, kind, text, value)
        })
    }

    pub(super) fn switch(&self, name: &str) -> Result<Option<bool>, ApiError> {
        let Some(value) = self.present(name) else { return Ok(None) };
        let parsed = match value {
            Value::Bool(truth) => Some(*truth),
            Value::Number(number) if number.as_i64() == Some(1) => Some(true),
            Value::Number(number) if number.as_i64() == Some(0) => Some(false),
            Value::String(text) => match text.to_lowercase().as_str() {
                "true" | "t" | "yes" | "y" | "on" | "1" => Some(true),
                "false" | "f" | "no" | "n" | "off" | "0" => Some(false),
                _ => None,
            },
            _ => None,
        };
        parsed.map(Some).ok_or_else(|| match value {
            Value::String(_) | Value::Number(_) => ApiError::field(
                name,
                "bool_parsing",
                "Input should be a valid boolean, unable to interpret input",
                value,
            ),
            _ => ApiError::field(name, "bool_type", "Input should be a valid boolean", value),
        })
    }

    pub(super) fn is_set(&self, name: &str) -> Result<bool, ApiError> {
        Ok(self.switch(name)?.unwrap_or(false))
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<f64>, ApiError> {
        let Some(value) = self.present(name) else { return Ok(None) };
        let parsed = match value {
            Value::String(text) => text.trim().parse().ok(),
            other => other.as_f64(),
        };
        parsed.map(Some).ok_or_else(|| match value {
            Value::String(_) => ApiError::field(
                name,
                "float_parsing",
                "Input should be a valid number, unable to parse string as a number",
                value,
            ),
            _ => ApiError::field(name, "float_type", "Input should be a valid number", value),
        })
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, ApiError> {
        match self.present(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(ApiError::field(name, "string_type", "Input should be a valid string", other)),
        }
    }

    /// A text or a list of at most `most` texts.
    pub(super) fn texts(&self, name: &str, most: usize) -> Result<Vec<String>, ApiError> {
        let at = format!("body.{name}");
        let wrong = |value: &Value, kind: &str, text: &str, ctx: &str| {
            let input = summary(value);
            let no_text = Violation {
                at: &at,
                kind: "string_type",
                text: "Input should be a valid string",
                input: &input,
                ctx: "",
            };
            ApiError::models(&[no_text, Violation { at: &at, kind, text, input: &input, ctx }])
        };
        match self.present(name) {
            None => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(vec![text.clone()]),
            Some(list @ Value::Array(items)) if items.len() > most => {
                let text = format!("List should have at most {most} items after validation, not {}", items.len());
                let ctx = format!("{{'field_type': 'List', 'max_length': {most}, 'actual_length': {}}}", items.len());
                Err(wrong(list, "too_long", &text, &ctx))
            }
            Some(list @ Value::Array(items)) => items
                .iter()
                .map(|item| item.as_str().map(str::to_owned))
                .collect::<Option<_>>()
                .ok_or_else(|| wrong(list, "string_type", "Input should be a valid string", "")),
            Some(other) => Err(wrong(other, "list_type", "Input should be a valid list", "")),
        }
    }

    /// A list of token ids.
    pub(super) fn ids(&self, name: &str) -> Result<Vec<u32>, ApiError> {
        let wrong = |value: &Value| ApiError::field(name, "list_type", "Input should be a valid list", value);
        match self.present(name) {
            None => Ok(Vec::new()),
            Some(list @ Value::Array(items)) => token_ids(items).ok_or_else(|| wrong(list)),
            Some(other) => Err(wrong(other)),
        }
    }

    /// The fields of an object inside.
    pub(super) fn object(&self, name: &str) -> Result<Option<Self>, ApiError> {
        match self.present(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self(map.clone()))),
            Some(other) => Err(ApiError::model(
                &format!("body.{name}"),
                "model_attributes_type",
                "Input should be a valid dictionary or object to extract fields from",
                &summary(other),
                "",
            )),
        }
    }
}

/// Numbers as token ids; `None` when one cannot be.
pub(super) fn token_ids(items: &[Value]) -> Option<Vec<u32>> {
    items.iter().map(|item| item.as_u64().and_then(|id| u32::try_from(id).ok())).collect()
}
