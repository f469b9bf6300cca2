//! Members as the commands show them.

use super::text::{Token, printable, tokens};
use crate::admin::Member;

impl Member {
    /// The user, safe to show.
    pub fn user_text(&self) -> String {
        printable(&self.user).into_owned()
    }

    /// The state, safe to show: compact JSON with room to breathe, or base64 marked as such.
    pub fn state_text(&self) -> String {
        match (&self.state, &self.state_base64) {
            (Some(state), _) => spaced(&printable(&state.to_string())),
            (None, Some(base64)) => format!("base64:{}", printable(base64)),
            (None, None) => String::new(),
        }
    }
}

/// Compact JSON with a space after each comma and colon.
fn spaced(json: &str) -> String {
    let mut spaced = String::with_capacity(json.len() + json.len() / 8);
    for (kind, token) in tokens(json) {
        spaced.push_str(token);
        if kind == Token::Punctuation && matches!(token, "," | ":") {
            spaced.push(' ');
        }
    }
    spaced
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state_text(fields: &str) -> String {
        let text = format!(r#"{{"user":"a","connection":"0.0.1"{fields}}}"#);
        serde_json::from_str::<Member>(&text).unwrap().state_text()
    }

    #[test]
    fn states_are_shown_as_json_or_as_base64() {
        for (fields, shown) in [
            (r#","state":{"x":[1,2],"y:,":"a,b"}"#, r#"{"x": [1, 2], "y:,": "a,b"}"#),
            (r#","state":null"#, "null"),
            (r#","state_base64":"wf8A""#, "base64:wf8A"),
            ("", ""),
            (r#","state":"\u001b[2J\u009b""#, r#""\u001b[2J\u009b""#),
        ] {
            assert_eq!(state_text(fields), shown);
        }
    }
}
