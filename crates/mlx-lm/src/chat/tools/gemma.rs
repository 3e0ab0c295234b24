//! `call:name{key:value}` between the marks of FunctionGemma or of Gemma 4.

use serde_json::{Map, Value};

use super::json;
use super::parser::ToolCall;
use super::step::{Body, Fault, Step, Syntax, enclosed, is_name, seek};

const GEMMA4: (&str, &str) = ("<|tool_call>", "<tool_call|>");
const FUNCTION_GEMMA: (&str, &str) = ("<start_function_call>", "<end_function_call>");

pub(super) const MARKS: &[&str] = &[
    GEMMA4.0,
    GEMMA4.1,
    "<|\"|>",
    FUNCTION_GEMMA.0,
    FUNCTION_GEMMA.1,
    "<escape>",
];

#[derive(Debug)]
pub(super) struct Gemma;

impl Syntax for Gemma {
    fn step(&mut self, text: &str, end: bool) -> Step {
        let (marks, quote) = match seek(text, &[GEMMA4.0, FUNCTION_GEMMA.0], end) {
            Err(step) => return step,
            Ok(0) => (GEMMA4, "<|\"|>"),
            Ok(_) => (FUNCTION_GEMMA, "<escape>"),
        };
        let begins = |first: char| first == 'c';
        enclosed(text, end, marks, begins, |body| calls(body, quote))
    }
}

/// One call, or several one after the other.
fn calls(body: &str, quote: &str) -> Body {
    let read = || {
        let mut calls = Vec::new();
        let mut reader = Reader { text: body, quote };
        while !reader.text.trim_start().is_empty() {
            calls.push(reader.call()?);
        }
        Ok(calls)
    };
    read().into()
}

struct Reader<'a> {
    text: &'a str,
    quote: &'a str,
}

impl<'a> Reader<'a> {
    fn take(&mut self, wanted: &str) -> Result<bool, Fault> {
        self.text = self.text.trim_start();
        match self.text.strip_prefix(wanted) {
            Some(rest) => {
                self.text = rest;
                Ok(true)
            }
            None if wanted.starts_with(self.text) => Err(Fault::Incomplete),
            None => Ok(false),
        }
    }

    fn want(&mut self, wanted: &str) -> Result<(), Fault> {
        match self.take(wanted)? {
            true => Ok(()),
            false => Err(Fault::Malformed),
        }
    }

    fn until(&mut self, ends: &[char]) -> Result<&'a str, Fault> {
        let at = self.text.find(ends).ok_or(Fault::Incomplete)?;
        let (word, rest) = self.text.split_at(at);
        self.text = rest;
        Ok(word.trim())
    }

    fn string(&mut self) -> Result<&'a str, Fault> {
        let (string, rest) = self.text.split_once(self.quote).ok_or(Fault::Incomplete)?;
        self.text = rest;
        Ok(string)
    }

    fn call(&mut self) -> Result<ToolCall, Fault> {
        self.want("call:")?;
        let name = self.until(&['{'])?;
        if !is_name(name) {
            return Err(Fault::Malformed);
        }
        let arguments = self.mapping(0)?;
        Ok(ToolCall::new(name, arguments))
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, Fault> {
        self.want("{")?;
        let mut map = Map::new();
        while !self.take("}")? {
            if !map.is_empty() {
                self.want(",")?;
            }
            let key = if self.take(self.quote)? {
                let key = self.string()?;
                self.want(":")?;
                key
            } else {
                let key = self.until(&[':', '}'])?;
                self.want(":")?;
                key
            };
            let value = self.value(depth)?;
            map.insert(key.trim_matches('"').to_owned(), value);
        }
        Ok(Value::Object(map))
    }

    fn value(&mut self, depth: usize) -> Result<Value, Fault> {
        if depth > 64 {
            return Err(Fault::Malformed);
        }
        self.text = self.text.trim_start();
        if self.text.starts_with('{') {
            return self.mapping(depth + 1);
        }
        if self.text.starts_with('[') {
            self.text = self.text.get(1..).unwrap_or_default();
            let mut items = Vec::new();
            while !self.take("]")? {
                if !items.is_empty() {
                    self.want(",")?;
                }
                items.push(self.value(depth + 1)?);
            }
            return Ok(Value::Array(items));
        }
        if self.take(self.quote)? {
            return self.string().map(Value::from);
        }
        let word = self.until(&[',', '}', ']'])?;
        Ok(json::parse(word).unwrap_or_else(|_| Value::from(word)))
    }
}
