//! MessagePack encoding of fields, structs and enums, and the two macros that define the messages.
//!
//! A struct is an array with one value per field, in order; a unit variant is its name; a struct
//! variant is `[name, [fields]]` (`protocols/nodedb.md` section 3.1).

use serde::{Serialize, Serializer};

use crate::error::FrameError;
use crate::wire::msgpack::{self, Reader};
use crate::wire::sync::layout::Layout;

/// A value with an encoding per layout.
pub(super) trait Field<'a>: Sized {
    /// Reads the value.
    fn decode(reader: &mut Reader<'a>, layout: Layout) -> Result<Self, FrameError>;

    /// Appends the value.
    fn append(&self, layout: Layout, out: &mut Vec<u8>);

    /// Whether a client of this layout can interpret the value correctly. This includes fields that
    /// the layout lacks: omitting a rejection would mean success.
    fn expressible(&self, _layout: Layout) -> bool {
        true
    }
}

/// Fields with one reader method and one writer, in all layouts.
macro_rules! plain_fields {
    ($($type:ty: $read:ident, $write:ident;)*) => {$(
        impl<'a> Field<'a> for $type {
            fn decode(reader: &mut Reader<'a>, _: Layout) -> Result<Self, FrameError> {
                reader.$read()
            }

            fn append(&self, _: Layout, out: &mut Vec<u8>) {
                msgpack::$write(out, *self);
            }
        }
    )*};
}

plain_fields! {
    bool: bool, write_bool;
    u64: u64, write_u64;
    i64: i64, write_i64;
    f32: f32, write_f32;
    &'a str: str, write_str;
    &'a [u8]: bin, write_bin;
}

/// Unsigned integers narrower than 64 bits; larger values are refused.
macro_rules! narrow_fields {
    ($($type:ty),*) => {$(
        impl<'a> Field<'a> for $type {
            fn decode(reader: &mut Reader<'a>, _: Layout) -> Result<Self, FrameError> {
                <$type>::try_from(reader.u64()?).map_err(|_| FrameError::Body)
            }

            fn append(&self, _: Layout, out: &mut Vec<u8>) {
                msgpack::write_u64(out, u64::from(*self));
            }
        }
    )*};
}

narrow_fields!(u8, u16, u32);

impl<'a, T: Field<'a>> Field<'a> for Option<T> {
    fn decode(reader: &mut Reader<'a>, layout: Layout) -> Result<Self, FrameError> {
        if reader.take_nil()? { Ok(None) } else { T::decode(reader, layout).map(Some) }
    }

    fn append(&self, layout: Layout, out: &mut Vec<u8>) {
        match self {
            None => msgpack::write_nil(out),
            Some(value) => value.append(layout, out),
        }
    }

    fn expressible(&self, layout: Layout) -> bool {
        self.as_ref().is_none_or(|value| value.expressible(layout))
    }
}

impl<'a, T: Field<'a>> Field<'a> for Vec<T> {
    fn decode(reader: &mut Reader<'a>, layout: Layout) -> Result<Self, FrameError> {
        let len = reader.array_len()?;
        let mut items = Vec::new();
        for _ in 0..len {
            items.push(T::decode(reader, layout)?);
        }
        Ok(items)
    }

    fn append(&self, layout: Layout, out: &mut Vec<u8>) {
        msgpack::write_array_len(out, self.len());
        self.iter().for_each(|item| item.append(layout, out));
    }

    fn expressible(&self, layout: Layout) -> bool {
        self.iter().all(|item| item.expressible(layout))
    }
}

/// Fixed byte strings are arrays of integers in this protocol; `bin` is refused.
impl<'a, const N: usize> Field<'a> for [u8; N] {
    fn decode(reader: &mut Reader<'a>, layout: Layout) -> Result<Self, FrameError> {
        reader.array_of(N)?;
        let mut bytes = [0; N];
        for byte in &mut bytes {
            *byte = u8::decode(reader, layout)?;
        }
        Ok(bytes)
    }

    fn append(&self, layout: Layout, out: &mut Vec<u8>) {
        msgpack::write_array_len(out, N);
        self.iter().for_each(|byte| byte.append(layout, out));
    }
}

impl<'a, A: Field<'a>, B: Field<'a>> Field<'a> for (A, B) {
    fn decode(reader: &mut Reader<'a>, layout: Layout) -> Result<Self, FrameError> {
        reader.array_of(2)?;
        Ok((A::decode(reader, layout)?, B::decode(reader, layout)?))
    }

    fn append(&self, layout: Layout, out: &mut Vec<u8>) {
        msgpack::write_array_len(out, 2);
        self.0.append(layout, out);
        self.1.append(layout, out);
    }
}

/// A map in wire order. It may contain duplicate keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Map<K, V>(pub Vec<(K, V)>);

impl<'a, K: Field<'a>, V: Field<'a>> Field<'a> for Map<K, V> {
    fn decode(reader: &mut Reader<'a>, layout: Layout) -> Result<Self, FrameError> {
        let len = reader.map_len()?;
        let mut pairs = Vec::new();
        for _ in 0..len {
            pairs.push((K::decode(reader, layout)?, V::decode(reader, layout)?));
        }
        Ok(Map(pairs))
    }

    fn append(&self, layout: Layout, out: &mut Vec<u8>) {
        msgpack::write_map_len(out, self.0.len());
        for (key, value) in &self.0 {
            key.append(layout, out);
            value.append(layout, out);
        }
    }
}

impl<K: Serialize, V: Serialize> Serialize for Map<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

/// Appends the head of a variant: its name for a unit variant (`[name, nil]` before 0.4,
/// `protocols/nodedb.md` section 9, decision 1), otherwise everything before its fields.
pub(super) fn append_variant_head(name: &str, fields: usize, layout: Layout, out: &mut Vec<u8>) {
    if fields == 0 && layout >= Layout::V0_4 {
        return msgpack::write_str(out, name);
    }
    msgpack::write_array_len(out, 2);
    msgpack::write_str(out, name);
    match fields {
        0 => msgpack::write_nil(out),
        _ => msgpack::write_array_len(out, fields),
    }
}

/// The head of an enum value.
pub(super) enum VariantHead<'a> {
    /// A complete unit variant.
    Unit(&'a str),
    /// A variant whose array of fields follows.
    WithFields(&'a str),
}

impl<'a> VariantHead<'a> {
    /// Reads up to the fields. `[name, nil]` is a unit variant before 0.4 only; a bare name is one
    /// in every generation.
    pub(super) fn decode(reader: &mut Reader<'a>, layout: Layout) -> Result<Self, FrameError> {
        if reader.at_str()? {
            return reader.str().map(VariantHead::Unit);
        }
        reader.array_of(2)?;
        let name = reader.str()?;
        if layout < Layout::V0_4 && reader.take_nil()? {
            return Ok(VariantHead::Unit(name));
        }
        Ok(VariantHead::WithFields(name))
    }

    pub(super) fn name(&self) -> &'a str {
        match self {
            VariantHead::Unit(name) | VariantHead::WithFields(name) => name,
        }
    }

    /// Reads the array head of a variant with this number of fields.
    pub(super) fn open(&self, reader: &mut Reader<'a>, fields: usize) -> Result<(), FrameError> {
        match self {
            VariantHead::Unit(_) if fields == 0 => Ok(()),
            VariantHead::WithFields(_) if fields > 0 => reader.array_of(fields),
            _ => Err(FrameError::Body),
        }
    }
}

/// Whether a layout has an item: always, `since` a layout, or `before` one.
macro_rules! in_layout {
    ($layout:ident) => {
        $layout >= Layout::V0_0
    };
    ($layout:ident since $first:ident) => {
        $layout >= Layout::$first
    };
    ($layout:ident before $end:ident) => {
        $layout < Layout::$end
    };
}
pub(super) use in_layout;

/// Reads a field; the default if the layout lacks it.
macro_rules! decode_field {
    ($reader:ident, $layout:ident) => {
        Field::decode($reader, $layout)?
    };
    ($reader:ident, $layout:ident $($when:tt)+) => {
        if in_layout!($layout $($when)+) {
            Field::decode($reader, $layout)?
        } else {
            Default::default()
        }
    };
}
pub(super) use decode_field;

/// Imports for the code generated by [`structs`] and [`enums`].
pub(super) mod prelude {
    pub(in crate::wire::sync::message) use super::{
        Field, Map, VariantHead, append_variant_head, decode_field, enums, in_layout, structs,
    };
    pub(in crate::wire::sync::message) use crate::error::FrameError;
    pub(in crate::wire::sync::message) use crate::wire::msgpack::{self, Reader};
    pub(in crate::wire::sync::message) use crate::wire::sync::layout::Layout;
}

/// Defines structs as lists of fields: `name: type`, with `[since V0_4]` or `[before V0_6]` for a
/// field that only some layouts have. In the other layouts the field has its default.
macro_rules! structs {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident $(<$lifetime:lifetime>)? {
            $($(#[$field_meta:meta])* $field:ident: $type:ty $([$($when:tt)+])?,)*
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize)]
        pub struct $name $(<$lifetime>)? {
            $($(#[$field_meta])* pub $field: $type,)*
        }

        impl $(<$lifetime>)? $name $(<$lifetime>)? {
            /// Length of the array on the wire.
            fn arity(layout: Layout) -> usize {
                0 $(+ usize::from(in_layout!(layout $($($when)+)?)))*
            }
        }

        impl<'a> Field<'a> for $name $(<$lifetime>)? {
            fn decode(reader: &mut Reader<'a>, layout: Layout) -> Result<Self, FrameError> {
                reader.array_of(Self::arity(layout))?;
                $(let $field = decode_field!(reader, layout $($($when)+)?);)*
                Ok($name { $($field),* })
            }

            fn append(&self, layout: Layout, out: &mut Vec<u8>) {
                msgpack::write_array_len(out, Self::arity(layout));
                $(if in_layout!(layout $($($when)+)?) {
                    self.$field.append(layout, out);
                })*
            }

            fn expressible(&self, layout: Layout) -> bool {
                true $(&& self.$field.expressible(layout))*
            }
        }
    )*};
}
pub(super) use structs;

/// Defines enums as lists of variants, with or without named fields, with `[since V0_6]` for a
/// variant that only some layouts have.
macro_rules! enums {
    ($(
        $(#[$meta:meta])*
        pub enum $name:ident $(<$lifetime:lifetime>)? {
            $(
                $(#[$variant_meta:meta])*
                $variant:ident $({ $($field:ident: $type:ty),+ })? $([$($when:tt)+])?,
            )*
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize)]
        pub enum $name $(<$lifetime>)? {
            $($(#[$variant_meta])* $variant $({ $($field: $type),+ })?,)*
        }

        impl<'a> Field<'a> for $name $(<$lifetime>)? {
            fn decode(reader: &mut Reader<'a>, layout: Layout) -> Result<Self, FrameError> {
                let head = VariantHead::decode(reader, layout)?;
                match head.name() {
                    $(stringify!($variant) if in_layout!(layout $($($when)+)?) => {
                        let fields: &[&str] = &[$($(stringify!($field)),+)?];
                        head.open(reader, fields.len())?;
                        Ok($name::$variant { $($($field: Field::decode(reader, layout)?),+)? })
                    })*
                    _ => Err(FrameError::Body),
                }
            }

            fn append(&self, layout: Layout, out: &mut Vec<u8>) {
                match self {
                    $($name::$variant { $($($field),+)? } => {
                        let fields: &[&str] = &[$($(stringify!($field)),+)?];
                        append_variant_head(stringify!($variant), fields.len(), layout, out);
                        $($($field.append(layout, out);)+)?
                    })*
                }
            }

            fn expressible(&self, layout: Layout) -> bool {
                match self {
                    $($name::$variant { $($($field),+)? } => {
                        in_layout!(layout $($($when)+)?)
                            $($(&& Field::expressible($field, layout))+)?
                    })*
                }
            }
        }
    )*};
}
pub(super) use enums;
