//! Announcement of a collection (`protocols/nodedb.md` section 3.3, type 0x13).

use super::codec::prelude::*;

structs! {
    /// 0x13.
    pub struct CollectionSchema<'a> {
        descriptor: CollectionDescriptor<'a>,
        creation_hlc: Hlc,
    }

    /// Creation time of the collection.
    pub struct Hlc {
        wall_ns: u64,
        logical: u64,
    }
}

/// A descriptor that is validated and passed on unchanged. The fields used for routing are decoded.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct CollectionDescriptor<'a> {
    pub tenant_id: u64,
    pub database_id: u64,
    pub name: &'a str,
    /// The MessagePack map.
    #[serde(skip)]
    pub raw: &'a [u8],
}

/// Keys in declaration order.
const KEYS: [&str; 12] = [
    "tenant_id",
    "database_id",
    "name",
    "collection_type",
    "primary",
    "partition_strategy",
    "bitemporal",
    "crdt",
    "fields",
    "vector_primary",
    "declared_primary_key",
    "descriptor_version",
];

/// The number of required keys, from the front of [`KEYS`].
const KEYS_REQUIRED: usize = 6;

impl<'a> Field<'a> for CollectionDescriptor<'a> {
    fn decode(reader: &mut Reader<'a>, layout: Layout) -> Result<Self, FrameError> {
        let raw = reader.clone().value_bytes()?;
        let mut descriptor = CollectionDescriptor { tenant_id: 0, database_id: 0, name: "", raw };
        let mut seen = [false; KEYS.len()];
        for _ in 0..reader.map_len()? {
            let key = reader.str()?;
            let index = KEYS.iter().position(|known| *known == key).ok_or(FrameError::Body)?;
            if std::mem::replace(&mut seen[index], true) {
                return Err(FrameError::Body);
            }
            descriptor.decode_value(key, reader, layout)?;
        }
        let complete = seen[..KEYS_REQUIRED].iter().all(|seen| *seen);
        if complete { Ok(descriptor) } else { Err(FrameError::Body) }
    }

    fn append(&self, _: Layout, out: &mut Vec<u8>) {
        out.extend_from_slice(self.raw);
    }
}

impl<'a> CollectionDescriptor<'a> {
    fn decode_value(
        &mut self,
        key: &str,
        reader: &mut Reader<'a>,
        layout: Layout,
    ) -> Result<(), FrameError> {
        match key {
            "tenant_id" => self.tenant_id = reader.u64()?,
            "database_id" => self.database_id = reader.u64()?,
            "name" => self.name = reader.str()?,
            "collection_type" => check_collection_type(reader, layout)?,
            "primary" => check::<PrimaryEngine>(reader, layout)?,
            "partition_strategy" => check::<PartitionStrategy>(reader, layout)?,
            "bitemporal" | "crdt" => check::<bool>(reader, layout)?,
            "fields" => check::<Vec<(&str, &str)>>(reader, layout)?,
            "vector_primary" => check_vector_primary(reader)?,
            "declared_primary_key" => check::<Option<&str>>(reader, layout)?,
            _ => check::<u64>(reader, layout)?,
        }
        Ok(())
    }
}

/// Skips a value that must be a `T`.
fn check<'a, T: Field<'a>>(reader: &mut Reader<'a>, layout: Layout) -> Result<(), FrameError> {
    T::decode(reader, layout).map(|_| ())
}

enums! {
    /// The primary engine of the collection.
    pub enum PrimaryEngine {
        Document,
        Strict,
        KeyValue,
        Columnar,
        Spatial,
        Vector,
    }

    /// How rows are assigned to partitions.
    pub enum PartitionStrategy {
        CollectionHomed,
        KeyPartitioned { key: KeySpec },
    }

    /// The key of [`PartitionStrategy::KeyPartitioned`].
    pub enum KeySpec {
        NodeId,
        ArrayTile,
    }

    /// Profile of a columnar collection.
    pub enum ColumnarProfile<'a> {
        Plain,
        Timeseries { time_key: &'a str, interval: &'a str },
        Spatial { geometry_column: &'a str, auto_rtree: bool, auto_geohash: bool },
    }
}

/// `[storage, details]`. The columns of strict and key-value collections are not validated.
fn check_collection_type(reader: &mut Reader<'_>, layout: Layout) -> Result<(), FrameError> {
    reader.array_of(2)?;
    match reader.str()? {
        "Document" => check_document_mode(reader, layout),
        "Columnar" => check::<ColumnarProfile<'_>>(reader, layout),
        "KeyValue" => {
            const KV_CONFIG_FIELDS: usize = 4;
            reader.array_of(KV_CONFIG_FIELDS)?;
            (0..KV_CONFIG_FIELDS).try_for_each(|_| reader.skip_value())
        }
        _ => Err(FrameError::Body),
    }
}

fn check_document_mode(reader: &mut Reader<'_>, layout: Layout) -> Result<(), FrameError> {
    match VariantHead::decode(reader, layout)? {
        VariantHead::Unit("Schemaless") => Ok(()),
        VariantHead::WithFields("Strict") => {
            let pairs = reader.map_len()?;
            (0..pairs * 2).try_for_each(|_| reader.skip_value())
        }
        _ => Err(FrameError::Body),
    }
}

fn check_vector_primary(reader: &mut Reader<'_>) -> Result<(), FrameError> {
    const VECTOR_CONFIG_FIELDS: usize = 8;
    if reader.take_nil()? {
        return Ok(());
    }
    reader.array_of(VECTOR_CONFIG_FIELDS)?;
    (0..VECTOR_CONFIG_FIELDS).try_for_each(|_| reader.skip_value())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A descriptor with these pairs; a value is MessagePack.
    fn descriptor(pairs: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        msgpack::write_map_len(&mut out, pairs.len());
        for (key, value) in pairs {
            msgpack::write_str(&mut out, key);
            out.extend_from_slice(value);
        }
        out
    }

    fn required() -> Vec<(&'static str, &'static [u8])> {
        vec![
            ("tenant_id", &[7]),
            ("database_id", &[2]),
            ("name", b"\xa5users"),
            ("collection_type", b"\x92\xa8Document\xaaSchemaless"),
            ("primary", b"\xa8Document"),
            ("partition_strategy", b"\xafCollectionHomed"),
        ]
    }

    fn decode(bytes: &[u8]) -> Result<CollectionDescriptor<'_>, FrameError> {
        CollectionDescriptor::decode(&mut Reader::new(bytes), Layout::V0_6)
    }

    #[test]
    fn keys_with_defaults_may_be_absent_and_the_map_is_passed_on_unchanged() {
        let mut pairs = required();
        pairs.reverse();
        let bytes = descriptor(&pairs);
        let decoded = decode(&bytes).expect("a good descriptor");
        assert_eq!((decoded.tenant_id, decoded.database_id, decoded.name), (7, 2, "users"));
        let mut out = Vec::new();
        decoded.append(Layout::V0_6, &mut out);
        assert_eq!(out, bytes);
    }

    #[test]
    fn a_missing_unknown_or_repeated_key_is_refused() {
        for missing in 0..KEYS_REQUIRED {
            let mut pairs = required();
            pairs.remove(missing);
            assert_eq!(decode(&descriptor(&pairs)), Err(FrameError::Body), "{missing}");
        }
        for extra in [("owner", &[1u8][..]), ("tenant_id", &[1])] {
            let mut pairs = required();
            pairs.push(extra);
            assert_eq!(decode(&descriptor(&pairs)), Err(FrameError::Body), "{extra:?}");
        }
    }

    #[test]
    fn values_have_their_types() {
        let cases: [(&str, &[u8], bool); 13] = [
            ("collection_type", b"\x92\xa8Columnar\xa5Plain", true),
            ("collection_type", b"\x92\xa8KeyValue\x94\x82\xa1a\x01\xa1b\x02\xc0\x00\x40", true),
            ("collection_type", b"\x92\xa8KeyValue\x93\x80\xc0\x00", false),
            ("collection_type", b"\x92\xa8Document\x92\xa6Strict\x81\xa7columns\x90", true),
            ("collection_type", b"\x92\xa5Other\xa5Plain", false),
            ("primary", b"\xa5Other", false),
            ("partition_strategy", b"\x92\xaeKeyPartitioned\x91\xa6NodeId", true),
            ("partition_strategy", b"\x92\xaeKeyPartitioned\x91\xa5Other", false),
            ("crdt", &[1], false),
            ("fields", b"\x91\x92\xa1a\xa1b", true),
            ("fields", b"\x91\x91\xa1a", false),
            ("vector_primary", &[0xc0], true),
            ("vector_primary", &[0x90], false),
        ];
        for (key, value, good) in cases {
            let mut pairs = required();
            pairs.retain(|pair| pair.0 != key);
            pairs.push((key, value));
            assert_eq!(decode(&descriptor(&pairs)).is_ok(), good, "{key} {value:x?}");
        }
    }
}
