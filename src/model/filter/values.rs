//! Attributes and data as the values of an expression.

use cel::ExecutionError;
use cel::common::traits::{Container, Indexer, Iterable, Iterator, Sizer};
use cel::common::types::{
    CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelUInt, MAP_TYPE, Type,
};
use cel::common::value::{CowVal, Val};
use prost::bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, skip_field};
use serde_json::Value;

use crate::model::header::bytes;
use crate::model::limits::{MAX_FILTER_JSON_BYTES, MAX_FILTER_JSON_VALUES};

/// The attributes of a message: a map that is searched where it stands, since there are few.
#[derive(Debug, Clone, Default)]
pub(super) struct Attributes<'a>(Vec<(CelString<'a>, CelString<'a>)>);

impl<'a> Attributes<'a> {
    /// Reads one more, encoded as an entry of a protobuf map.
    pub(super) fn read(&mut self, mut encoded: &'a [u8]) -> Option<()> {
        let (mut name, mut value) = ("", "");
        while encoded.has_remaining() {
            let (number, wire) = decode_key(&mut encoded).ok()?;
            if wire == WireType::LengthDelimited {
                let content = bytes(wire, &mut encoded)?;
                match number {
                    1 => name = str::from_utf8(content).ok()?,
                    2 => value = str::from_utf8(content).ok()?,
                    _ => {}
                }
            } else {
                skip_field(wire, number, &mut encoded, DecodeContext::default()).ok()?;
            }
        }
        // As in every map, a later entry of the same name replaces an earlier one.
        self.0.retain(|(earlier, _)| earlier.inner() != name);
        self.0.push((name.into(), value.into()));
        Some(())
    }

    fn find(&self, name: &str) -> Option<&CelString<'a>> {
        self.0.iter().find(|(known, _)| known.inner() == name).map(|(_, value)| value)
    }
}

/// The name that an attribute is asked for by.
fn attribute_name(index: &dyn Val) -> Result<&str, ExecutionError> {
    let name = index.downcast_ref::<CelString<'_>>().map(CelString::inner);
    name.ok_or_else(|| ExecutionError::UnexpectedType {
        got: index.get_type().name().to_owned(),
        want: "string".to_owned(),
    })
}

impl Val for Attributes<'_> {
    fn get_type(&self) -> &Type {
        &MAP_TYPE
    }

    fn cel_type() -> &'static Type {
        &MAP_TYPE
    }

    fn as_container(&self) -> Option<&dyn Container> {
        Some(self)
    }

    fn as_indexer<'b, 'v>(&'b self) -> Option<&'b (dyn Indexer + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }

    fn as_iterable<'b, 'v>(&'b self) -> Option<&'b (dyn Iterable + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }

    fn as_sizer(&self) -> Option<&dyn Sizer> {
        Some(self)
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v>
    where
        Self: 'v,
    {
        Box::new(self.clone())
    }
}

impl Container for Attributes<'_> {
    fn contains(&self, name: &dyn Val) -> Result<bool, ExecutionError> {
        Ok(self.find(attribute_name(name)?).is_some())
    }
}

impl Indexer for Attributes<'_> {
    fn get<'b, 'v>(&'b self, index: &dyn Val) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        let name = attribute_name(index)?;
        self.find(name)
            .map(|value| CowVal::Borrowed(value as &dyn Val))
            .ok_or_else(|| ExecutionError::no_such_key(name))
    }

    fn steal<'v>(self: Box<Self>, index: &dyn Val) -> Result<Box<dyn Val + 'v>, ExecutionError>
    where
        Self: 'v,
    {
        self.get(index).map(CowVal::into_owned)
    }
}

impl Iterable for Attributes<'_> {
    fn iter<'b, 'v>(&'b self) -> Box<dyn Iterator<'b, 'v> + 'b>
    where
        Self: 'v,
    {
        Box::new(Names(self.0.iter()))
    }
}

impl Sizer for Attributes<'_> {
    fn size(&self) -> CelInt {
        CelInt::from(i64::try_from(self.0.len()).unwrap_or(i64::MAX))
    }
}

struct Names<'b, 'a>(std::slice::Iter<'b, (CelString<'a>, CelString<'a>)>);

impl<'b, 'a: 'v, 'v> Iterator<'b, 'v> for Names<'b, 'a> {
    fn next(&mut self) -> Option<&'b (dyn Val + 'v)> {
        self.0.next().map(|(name, _)| name as &(dyn Val + 'v))
    }
}

/// Data as JSON: null if it is not, or if it is too large.
pub(super) fn json(data: &[u8]) -> Box<dyn Val> {
    let parsed = (data.len() <= MAX_FILTER_JSON_BYTES).then(|| serde_json::from_slice(data).ok()).flatten();
    let mut left = MAX_FILTER_JSON_VALUES;
    parsed.and_then(|parsed| value(parsed, &mut left)).unwrap_or_else(|| Box::new(CelNull))
}

/// A JSON value; nothing once there are too many.
fn value(parsed: Value, left: &mut usize) -> Option<Box<dyn Val>> {
    *left = left.checked_sub(1)?;
    Some(match parsed {
        Value::Null => Box::new(CelNull),
        Value::Bool(truth) => Box::new(CelBool::from(truth)),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Box::new(CelInt::from(number)),
            (None, Some(number)) => Box::new(CelUInt::from(number)),
            (None, None) => Box::new(CelDouble::from(number.as_f64().unwrap_or(f64::NAN))),
        },
        Value::String(text) => Box::new(CelString::from(text)),
        Value::Array(items) => {
            let items = items.into_iter().map(|item| value(item, left)).collect::<Option<Vec<_>>>()?;
            Box::new(CelList::from(items))
        }
        Value::Object(fields) => {
            let fields = fields
                .into_iter()
                .map(|(name, field)| Some((CelMapKey::String(CelString::from(name)), value(field, left)?)));
            Box::new(CelMap::from(fields.collect::<Option<std::collections::HashMap<_, _>>>()?))
        }
    })
}
