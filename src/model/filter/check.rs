//! What an expression may do, and what it could cost.
//!
//! The cost is the worst case over all messages that the server takes: how many bytes the operations
//! look at, and how many operations there are, with what is repeated counted as often as it can be. All
//! costs are linear in the sizes of their operands, so it is enough to know the largest sizes.

use cel::IdedExpr as Expression;
use cel::common::ast::{CallExpr, ComprehensionExpr, Expr, LiteralValue, SelectExpr};

use super::Uses;
use super::error::FilterError;
use crate::model::limits::{
    MAX_ATTRIBUTE_NAME_BYTES, MAX_ATTRIBUTE_VALUE_BYTES, MAX_ATTRIBUTES, MAX_FILTER_COST, MAX_FILTER_DEPTH,
    MAX_FILTER_JSON_BYTES, MAX_FILTER_JSON_VALUES, MAX_KEY_BYTES, MAX_MESSAGE_ID_BYTES,
    MAX_MESSAGE_LABEL_BYTES, MAX_NAME_BYTES,
};

/// What an operation costs beside the bytes that it looks at.
const OPERATION: u64 = 16;
/// The size of a number, a time or a truth value.
const SCALAR: Size = Size::text(8);
/// The names that an expression begins with.
const ROOTS: [&str; 5] = ["message", "topic", "offset", "attempt", "publish_time"];
/// The functions that an expression may call, beside operators.
const FUNCTIONS: [&str; 23] = [
    "size",
    "contains",
    "startsWith",
    "endsWith",
    "string",
    "int",
    "uint",
    "double",
    "bool",
    "timestamp",
    "duration",
    "getFullYear",
    "getMonth",
    "getDayOfYear",
    "getDayOfMonth",
    "getDate",
    "getDayOfWeek",
    "getHours",
    "getMinutes",
    "getSeconds",
    "getMilliseconds",
    "dyn",
    "bytes",
];

/// Checks an expression, whose parts are where `position` says: line and column.
pub(super) fn check(
    expression: &Expression,
    position: &dyn Fn(u64) -> (usize, usize),
) -> Result<Uses, FilterError> {
    let mut check = Check { position, names: Vec::new(), times: 1, cost: 0, uses: Uses::default() };
    check.visit(expression, MAX_FILTER_DEPTH)?;
    if check.uses.json {
        check.cost = check.cost.saturating_add(MAX_FILTER_JSON_BYTES as u64);
    }
    if check.cost > MAX_FILTER_COST { Err(FilterError::TooCostly(check.cost)) } else { Ok(check.uses) }
}

/// How large a value can be.
#[derive(Debug, Clone, Copy)]
struct Size {
    /// As a whole, in bytes.
    bytes: u64,
    /// How many items it has.
    items: u64,
    /// What they are.
    of: Items,
}

/// The items of a value.
#[derive(Debug, Clone, Copy)]
enum Items {
    /// None, or of these sizes: what `in` and the loops look at, and what an index yields.
    Texts { name: u64, value: u64 },
    /// Any part of a JSON document; all of them together are no larger than the whole.
    Json,
}

impl Size {
    const fn text(bytes: u64) -> Self {
        Self { bytes, items: 0, of: Items::Texts { name: 0, value: 0 } }
    }

    fn attributes() -> Self {
        let (name, value) = (MAX_ATTRIBUTE_NAME_BYTES as u64, MAX_ATTRIBUTE_VALUE_BYTES as u64);
        let items = MAX_ATTRIBUTES as u64;
        Self { bytes: items * (name + value), items, of: Items::Texts { name, value } }
    }

    fn json() -> Self {
        let (bytes, items) = (MAX_FILTER_JSON_BYTES as u64, MAX_FILTER_JSON_VALUES as u64);
        Self { bytes, items, of: Items::Json }
    }

    /// What an index or a field yields.
    fn part(self) -> Self {
        match self.of {
            Items::Json => self,
            Items::Texts { value, .. } => Self::text(value),
        }
    }

    /// What a loop sees in each of its rounds, on the average if that is what counts.
    fn item(self) -> Self {
        match self.of {
            Items::Json => {
                let items = self.items.max(1);
                Self { bytes: self.bytes.div_ceil(items), items: 1, of: Items::Json }
            }
            Items::Texts { name, .. } => Self::text(name),
        }
    }
}

struct Check<'a> {
    position: &'a dyn Fn(u64) -> (usize, usize),
    /// The names that loops give, and what they stand for.
    names: Vec<(&'a str, Size)>,
    /// How often the part that is being looked at can be evaluated.
    times: u64,
    cost: u64,
    uses: Uses,
}

type Checked = Result<Size, FilterError>;

impl<'a> Check<'a> {
    fn refuse<T>(&self, part: &Expression, message: impl Into<String>) -> Result<T, FilterError> {
        let (line, column) = (self.position)(part.id);
        Err(FilterError::Invalid { line, column, message: message.into() })
    }

    fn spend(&mut self, steps: u64) {
        self.cost = self.cost.saturating_add(self.times.saturating_mul(steps));
    }

    fn visit(&mut self, part: &'a Expression, depth: usize) -> Checked {
        let Some(depth) = depth.checked_sub(1) else {
            return self.refuse(part, "is nested too deeply; take it apart");
        };
        self.spend(OPERATION);
        match &part.expr {
            Expr::Literal(LiteralValue::String(text)) => Ok(Size::text(text.inner().len() as u64)),
            Expr::Literal(LiteralValue::Bytes(bytes)) => Ok(Size::text(bytes.inner().len() as u64)),
            Expr::Literal(_) => Ok(SCALAR),
            Expr::Ident(name) => self.name(part, name),
            Expr::Select(select) => self.select(part, select, depth),
            Expr::Call(call) => self.call(part, call, depth),
            Expr::List(list) => {
                let mut size = Size::text(0);
                let mut largest = 0;
                for element in &list.elements {
                    let bytes = self.visit(element, depth)?.bytes;
                    size.bytes = size.bytes.saturating_add(bytes);
                    size.items += 1;
                    largest = largest.max(bytes);
                }
                // Its elements are copied into it.
                self.spend(size.bytes);
                Ok(Size { of: Items::Texts { name: largest, value: largest }, ..size })
            }
            Expr::Comprehension(comprehension) => self.comprehension(part, comprehension, depth),
            Expr::Map(_) | Expr::Struct(_) => {
                self.refuse(part, "maps cannot be written in a filter; use a list")
            }
            Expr::Unspecified => self.refuse(part, "is incomplete"),
        }
    }

    fn name(&self, part: &Expression, name: &str) -> Checked {
        if let Some((_, size)) = self.names.iter().rev().find(|(given, _)| *given == name) {
            return Ok(*size);
        }
        match name {
            "topic" => Ok(Size::text(MAX_NAME_BYTES as u64)),
            "offset" | "attempt" | "publish_time" => Ok(SCALAR),
            "message" => self.refuse(part, "message is not a value; use one of its fields"),
            _ => self.refuse(part, format!("there is no {name}; use {}", ROOTS.join(", "))),
        }
    }

    fn select(&mut self, part: &'a Expression, select: &'a SelectExpr, depth: usize) -> Checked {
        let SelectExpr { operand, field, test } = select;
        if !matches!(&operand.expr, Expr::Ident(name) if name == "message") {
            return Ok(self.visit(operand, depth)?.part());
        }
        if *test {
            return self.refuse(part, format!("every message has {field}; compare it with \"\", or null"));
        }
        match field.as_str() {
            "key" => Ok(Size::text(MAX_KEY_BYTES as u64)),
            "id" => Ok(Size::text(MAX_MESSAGE_ID_BYTES as u64)),
            "type" | "content_type" | "correlation_id" | "causation_id" => {
                Ok(Size::text(MAX_MESSAGE_LABEL_BYTES as u64))
            }
            "attributes" => {
                self.uses.attributes = true;
                Ok(Size::attributes())
            }
            "data_json" => {
                self.uses.json = true;
                Ok(Size::json())
            }
            _ => self.refuse(
                part,
                format!(
                    "message has no {field}; use key, type, content_type, attributes, id, correlation_id, \
                     causation_id or data_json"
                ),
            ),
        }
    }

    fn call(&mut self, part: &'a Expression, call: &'a CallExpr, depth: usize) -> Checked {
        let operands = call.target.as_deref().into_iter().chain(&call.args);
        let sizes = operands.map(|operand| self.visit(operand, depth)).collect::<Result<Vec<_>, _>>()?;
        let bytes = sizes.iter().fold(0, |sum: u64, size| sum.saturating_add(size.bytes));
        let (first, last) =
            (sizes.first().copied().unwrap_or(SCALAR), sizes.last().copied().unwrap_or(SCALAR));
        match call.func_name.as_str() {
            "_&&_" | "_||_" | "!_" | "-_" | "_-_" | "_*_" | "_/_" | "_%_" | "@not_strictly_false" => {
                Ok(SCALAR)
            }
            "_==_" | "_!=_" | "_<_" | "_<=_" | "_>_" | "_>=_" => {
                self.spend(first.bytes.min(last.bytes));
                Ok(SCALAR)
            }
            "_?_:_" => Ok(sizes.into_iter().max_by_key(|size| size.bytes.max(size.items)).unwrap_or(SCALAR)),
            "_+_" => {
                self.spend(bytes);
                let items = first.items + last.items;
                let of = if first.bytes > last.bytes { first.of } else { last.of };
                Ok(Size { bytes, items, of })
            }
            "@in" => {
                let each = first.bytes.min(last.item().bytes).saturating_add(OPERATION);
                self.spend(last.items.max(1).saturating_mul(each));
                Ok(SCALAR)
            }
            "_[_]" => Ok(first.part()),
            "size" => {
                self.spend(if first.items > 0 { first.items } else { first.bytes });
                Ok(SCALAR)
            }
            "string" | "dyn" | "bytes" => {
                self.spend(bytes);
                Ok(Size { bytes: bytes.max(64), ..first })
            }
            "map" | "filter" => {
                self.refuse(part, format!("{} makes a list; use exists or all", call.func_name))
            }
            "matches" => self.refuse(part, "filters have no matches; use contains, startsWith or endsWith"),
            name if FUNCTIONS.contains(&name) => {
                self.spend(bytes);
                Ok(SCALAR)
            }
            name => self.refuse(part, format!("there is no function {name}; use {}", FUNCTIONS.join(", "))),
        }
    }

    /// A loop: `all`, `exists` or `exists_one`.
    fn comprehension(
        &mut self,
        part: &'a Expression,
        comprehension: &'a ComprehensionExpr,
        depth: usize,
    ) -> Checked {
        let ComprehensionExpr { iter_range, iter_var, iter_var2, accu_var, accu_init, .. } = comprehension;
        if iter_var2.is_some() || !matches!(accu_init.expr, Expr::Literal(_)) {
            return self.refuse(part, "map and filter make lists; use exists or all");
        }
        if ROOTS.contains(&iter_var.as_str()) {
            return self.refuse(part, format!("{iter_var} has a meaning already; name the item otherwise"));
        }
        let range = self.visit(iter_range, depth)?;
        let (outside, names) = (self.times, self.names.len());
        self.times = outside.saturating_mul(range.items.max(1));
        self.names.push((iter_var, range.item()));
        self.names.push((accu_var, SCALAR));
        // Each item is copied into its name.
        self.spend(range.item().bytes);
        self.visit(&comprehension.loop_cond, depth)?;
        self.visit(&comprehension.loop_step, depth)?;
        self.times = outside;
        self.visit(&comprehension.result, depth)?;
        self.names.truncate(names);
        Ok(SCALAR)
    }
}
