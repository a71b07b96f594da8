//! Names parsed as types. Recursion is bounded, and each type has one accepted spelling, the one it prints.

use super::{MAX_DEPTH, Number, Order, Part, Shape, Type};

impl Type {
    /// Parses a schema's name; `None` if this crate does not know the type, or the name nests more than 32 levels.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        parse_type(name, MAX_DEPTH)
    }
}

fn parse_type(name: &str, depth: usize) -> Option<Type> {
    if let Some(expression) = name.strip_prefix("postcard:") {
        let mut parser = Parser { rest: expression };
        let shape = parser.shape(depth)?;
        return parser.rest.is_empty().then_some(Type::Postcard(shape));
    }
    if let Some(order) = name.strip_prefix("ordered:") {
        return parse_order(order, depth).map(Type::Ordered);
    }
    if let Some(opaque) = opaque_name(name) {
        return Some(Type::Opaque(opaque));
    }
    let depth = depth.checked_sub(1)?;
    Some(match name {
        "unit" => Type::Unit,
        "bool" => Type::Bool,
        "bytes" => Type::Bytes,
        "utf8" => Type::Utf8,
        "u8" | "i8" => Type::Fixed(Number::parse(name)?),
        _ => match parse_parts(name, |part| parse_type(part, depth)) {
            Some(("option", parts)) => Type::Option(single(parts)?),
            Some(("list", parts)) => Type::List(single(parts)?),
            Some(("tuple", parts)) => Type::Tuple(parts),
            Some(_) => return None,
            None => {
                let number = Number::parse(name.strip_suffix("le")?)?;
                return (number.width() > 1).then_some(Type::Fixed(number));
            }
        },
    })
}

fn parse_order(name: &str, depth: usize) -> Option<Order> {
    let depth = depth.checked_sub(1)?;
    if let Some(opaque) = opaque_name(name) {
        return Some(Order::Opaque(opaque));
    }
    Some(match name {
        "unit" => Order::Unit,
        "bool" => Order::Bool,
        "bytes" => Order::Bytes,
        "utf8" => Order::Utf8,
        _ => match parse_parts(name, |part| parse_order(part, depth)) {
            Some(("option", parts)) => Order::Option(single(parts)?),
            Some(("tuple", parts)) => Order::Tuple(parts),
            Some(_) => return None,
            None => Order::Number(Number::parse(name)?),
        },
    })
}

/// Parses `form<part,...>`, each part with its version.
fn parse_parts<T>(name: &str, mut parse: impl FnMut(&str) -> Option<T>) -> Option<(&str, Vec<Part<T>>)> {
    let (form, rest) = name.split_once('<')?;
    let mut depth = 0usize;
    let mut balanced = true;
    let split = rest.strip_suffix('>')?.split(|c| {
        match c {
            '<' => depth += 1,
            '>' => match depth.checked_sub(1) {
                Some(outer) => depth = outer,
                None => balanced = false,
            },
            _ => {}
        }
        c == ',' && depth == 0
    });
    let mut part = |text: &str| {
        let (name, version) = versioned(text)?;
        Some(Part { ty: parse(name)?, version })
    };
    let parts = split.map(&mut part).collect::<Option<Vec<_>>>()?;
    (balanced && depth == 0).then_some((form, parts))
}

/// Splits `name@version`. A missing version is 1; an explicit 1 is refused.
fn versioned(text: &str) -> Option<(&str, u32)> {
    match text.rsplit_once('@') {
        Some((name, digits)) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            let version: u32 = digits.parse().ok()?;
            (version != 1 && version.to_string() == digits).then_some((name, version))
        }
        _ => Some((text, 1)),
    }
}

fn single<T>(parts: Vec<Part<T>>) -> Option<Box<Part<T>>> {
    let [part] = <[_; 1]>::try_from(parts).ok()?;
    Some(Box::new(part))
}

fn opaque_name(name: &str) -> Option<String> {
    let name = name.strip_prefix("opaque:")?;
    name.chars().all(|c| is_plain(c) || c == '%').then(|| name.to_owned())
}

/// Returns whether a character of an unknown name stands unescaped within other names.
pub(super) const fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | ':' | '/' | '-')
}

/// Parses shapes of `postcard`'s format.
struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn shape(&mut self, depth: usize) -> Option<Shape> {
        let depth = depth.checked_sub(1)?;
        Some(match self.word()? {
            "unit" => Shape::Unit,
            "bool" => Shape::Bool,
            "bytes" => Shape::Bytes,
            "utf8" => Shape::Utf8,
            "option" => Shape::Option(Box::new(self.single(depth)?)),
            "list" => Shape::List(Box::new(self.single(depth)?)),
            "tuple" => Shape::Tuple(self.items(|parser| parser.shape(depth))?),
            "struct" => Shape::Struct(self.items(|parser| parser.field(depth))?),
            "enum" => Shape::Enum(self.items(|parser| parser.field(depth))?),
            number => Shape::Number(Number::parse(number)?),
        })
    }

    /// Takes one shape in angle brackets.
    fn single(&mut self, depth: usize) -> Option<Shape> {
        self.token('<')?;
        let shape = self.shape(depth)?;
        self.token('>')?;
        Some(shape)
    }

    /// Takes one or more items between commas, in angle brackets.
    fn items<T>(&mut self, mut item: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        self.token('<')?;
        let mut items = vec![item(self)?];
        while self.token(',').is_some() {
            items.push(item(self)?);
        }
        self.token('>')?;
        Some(items)
    }

    fn field(&mut self, depth: usize) -> Option<(String, Shape)> {
        let name = self.word()?.to_owned();
        self.token(':')?;
        Some((name, self.shape(depth)?))
    }

    fn word(&mut self) -> Option<&'a str> {
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        (!word.is_empty()).then_some(word)
    }

    fn token(&mut self, token: char) -> Option<()> {
        self.rest = self.rest.strip_prefix(token)?;
        Some(())
    }
}
