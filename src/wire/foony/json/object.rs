//! Fields of an object, by name.

use std::borrow::Cow;

use strum::{EnumCount, EnumString, IntoStaticStr};

use crate::error::FrameError;
use crate::wire::foony::json_text::{each_field, items};
use crate::wire::foony::{Action, BATCH_MESSAGES_MAX, Message, validate_json};

/// A field of any frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumCount, EnumString, IntoStaticStr)]
#[strum(serialize_all = "camelCase")]
pub(super) enum Key {
    Action,
    #[strum(serialize = "key")]
    Credential,
    Before,
    BinaryDelivery,
    Bundle,
    Channel,
    ClientId,
    Coalesce,
    Code,
    ConnectionId,
    Data,
    Encoding,
    Ephemeral,
    FromSerial,
    Id,
    KeepAliveMs,
    LastMessageId,
    LastSerial,
    Limit,
    Message,
    MessageId,
    Messages,
    More,
    Name,
    Resumed,
    ResumeConnectionId,
    Seq,
    Start,
    Timestamp,
    Token,
    TtlMs,
    #[strum(serialize = "t")]
    Type,
}

/// The text of each known field.
pub(super) struct Object<'a> {
    values: [Option<&'a str>; Key::COUNT],
}

impl<'a> Object<'a> {
    pub fn empty() -> Self {
        Object { values: [None; Key::COUNT] }
    }

    /// Collects the fields of an object, including those before an error.
    pub fn collect(&mut self, text: &'a str) -> Result<(), FrameError> {
        each_field(text, |key, value| {
            // A key that cannot be decoded is an unknown one.
            let key = unquote(key).ok().and_then(|key| key.parse::<Key>().ok());
            if let Some(key) = key {
                self.values[key as usize] = Some(value);
            }
        })
    }

    pub fn read(text: &'a str) -> Result<Self, FrameError> {
        let mut object = Object::empty();
        object.collect(text)?;
        Ok(object)
    }

    /// The text of a field that is present and not `null`.
    fn present(&self, key: Key) -> Option<&'a str> {
        self.values[key as usize].filter(|value| *value != "null")
    }

    pub fn text(&self, key: Key) -> Result<Cow<'a, str>, FrameError> {
        self.present(key).map_or(Ok(Cow::Borrowed("")), unquote)
    }

    pub fn number(&self, key: Key) -> Result<u64, FrameError> {
        let digits = self.present(key).unwrap_or("0");
        digits.parse().map_err(|_| FrameError::Body)
    }

    pub fn flag(&self, key: Key) -> Result<Option<bool>, FrameError> {
        match self.present(key) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(FrameError::Body),
        }
    }

    pub fn is_set(&self, key: Key) -> Result<bool, FrameError> {
        Ok(self.flag(key)? == Some(true))
    }

    pub fn payload(&self) -> Result<&'a [u8], FrameError> {
        let payload = self.values[Key::Data as usize].unwrap_or("").as_bytes();
        validate_json(payload)?;
        Ok(payload)
    }

    pub fn message(&self) -> Result<Message<'a>, FrameError> {
        let (name, encoding) = (self.text(Key::Name)?, self.text(Key::Encoding)?);
        Ok(Message { name, data: self.payload()?, encoding })
    }

    pub fn action(&self) -> Result<Action, FrameError> {
        self.text(Key::Action)?.parse().map_err(|_| FrameError::Body)
    }

    /// The items of a list; empty if it is absent.
    pub fn list<T>(
        &self,
        key: Key,
        item: impl Fn(&Object<'a>) -> Result<T, FrameError>,
    ) -> Result<Vec<T>, FrameError> {
        let items = items(self.present(key).unwrap_or("[]"), BATCH_MESSAGES_MAX)?;
        if items.len() > BATCH_MESSAGES_MAX {
            return Err(FrameError::TooLong);
        }
        items.into_iter().map(|text| item(&Object::read(text)?)).collect()
    }
}

/// Decodes a string; `quoted` is a valid JSON value.
fn unquote(quoted: &str) -> Result<Cow<'_, str>, FrameError> {
    let inner = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let inner = inner.ok_or(FrameError::Body)?;
    if !inner.contains('\\') {
        return Ok(Cow::Borrowed(inner));
    }
    serde_json::from_str(quoted).map(Cow::Owned).map_err(|_| FrameError::Body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_name_in_any_escaping_and_order() {
        let text = r#" { "unknown" : {"id":9}, "\u0069d" : 7 , "name":"a\"b", "t":"x", "t":"y" } "#;
        let object = Object::read(text).unwrap();
        assert_eq!(object.number(Key::Id), Ok(7));
        assert_eq!(object.text(Key::Name).unwrap(), "a\"b");
        assert_eq!(object.text(Key::Type).unwrap(), "y");
        assert_eq!(object.text(Key::Channel).unwrap(), "");
        assert_eq!(object.payload(), Ok(&b""[..]));
    }

    #[test]
    fn null_means_absent_except_for_a_payload() {
        let object = Object::read(r#"{"id":null,"name":null,"more":null,"data":null}"#).unwrap();
        assert_eq!(object.number(Key::Id), Ok(0));
        assert_eq!(object.text(Key::Name).unwrap(), "");
        assert_eq!(object.flag(Key::More), Ok(None));
        assert_eq!(object.payload(), Ok(&b"null"[..]));
    }

    #[test]
    fn fields_of_another_type_are_refused() {
        let object = Object::read(r#"{"id":1.5,"name":1,"more":1,"messages":{},"code":-1}"#);
        let object = object.unwrap();
        assert_eq!(object.number(Key::Id), Err(FrameError::Body));
        assert_eq!(object.number(Key::Code), Err(FrameError::Body));
        assert_eq!(object.text(Key::Name), Err(FrameError::Body));
        assert_eq!(object.flag(Key::More), Err(FrameError::Body));
        assert_eq!(object.list(Key::Messages, Object::message), Err(FrameError::Body));
    }
}
