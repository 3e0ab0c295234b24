//! Which syntax a model uses.

use std::fmt;
use std::str::FromStr;

use super::schema::Schemas;
use super::step::Syntax;
use super::{
    deepseek, gemma, glm, harmony, hermes, kimi, llama3, minimax, mistral, pythonic, qwen_xml,
};

/// The syntax in which a model writes tool calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ToolFormat {
    /// `<tool_call>{"name": …, "arguments": …}</tool_call>`: Hermes, Qwen 2.5 and 3, SmolLM3, …
    Hermes,
    /// `{"name": …, "parameters": …}` at the beginning, perhaps behind `<|python_tag|>`: Llama 3.
    Llama3,
    /// `[TOOL_CALLS]`, followed by a JSON list, or by a name, `[ARGS]` and an object: Mistral.
    Mistral,
    /// `[name(argument="value")]`, with LFM2 between marks: LFM2, Llama 4.
    Pythonic,
    /// `<function=name><parameter=key>value</parameter></function>`: Qwen3-Coder.
    QwenXml,
    /// `<tool_call>name<arg_key>key</arg_key><arg_value>value</arg_value></tool_call>`: GLM 4.5 on.
    Glm,
    /// `<|tool_call_begin|>functions.name:0<|tool_call_argument_begin|>{…}`: Kimi K2.
    Kimi,
    /// `<minimax:tool_call><invoke name="…"><parameter name="…">`: MiniMax M2.
    MiniMax,
    /// `call:name{key:value}` with strings between marks: FunctionGemma and Gemma 4.
    Gemma,
    /// `<｜tool▁call▁begin｜>name<｜tool▁sep｜>{…}`: DeepSeek V3, R1, V3.1 and the XML of V3.2.
    DeepSeek,
    /// Messages to `functions.name` in the commentary channel: gpt-oss.
    Harmony,
}

impl ToolFormat {
    /// Every format.
    pub const ALL: &'static [Self] = &[
        Self::Hermes,
        Self::Llama3,
        Self::Mistral,
        Self::Pythonic,
        Self::QwenXml,
        Self::Glm,
        Self::Kimi,
        Self::MiniMax,
        Self::Gemma,
        Self::DeepSeek,
        Self::Harmony,
    ];

    /// Its name on a command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hermes => "hermes",
            Self::Llama3 => "llama3",
            Self::Mistral => "mistral",
            Self::Pythonic => "pythonic",
            Self::QwenXml => "qwen3_coder",
            Self::Glm => "glm",
            Self::Kimi => "kimi",
            Self::MiniMax => "minimax",
            Self::Gemma => "gemma",
            Self::DeepSeek => "deepseek",
            Self::Harmony => "harmony",
        }
    }

    /// The format that a chat template writes earlier calls in, or else that the vocabulary has
    /// the marks of; `has_token` tells whether it has a token.
    pub fn detect(template: &str, has_token: impl Fn(&str) -> bool) -> Option<Self> {
        let knows = |marks: &[&str]| marks.iter().any(|mark| template.contains(mark));
        if knows(&["<minimax:tool_call>"]) {
            Some(Self::MiniMax)
        } else if knows(&["<|tool_call>", "<start_function_call>"]) {
            Some(Self::Gemma)
        } else if knows(&["<arg_key>"]) {
            Some(Self::Glm)
        } else if knows(&["<function=", "<parameter="]) && knows(&["<tool_call>"]) {
            Some(Self::QwenXml)
        } else if knows(&["<|tool_calls_section_begin|>"]) {
            Some(Self::Kimi)
        } else if knows(&[
            "<｜tool▁calls▁begin｜>",
            "<｜tool▁call▁begin｜>",
            "｜DSML｜",
        ]) {
            Some(Self::DeepSeek)
        } else if knows(&["[TOOL_CALLS]"]) {
            Some(Self::Mistral)
        } else if knows(&["<|tool_list_start|>", "<|tool_call_start|>"]) {
            Some(Self::Pythonic)
        } else if knows(&["<|channel|>"]) && knows(&["<|call|>", "functions."]) {
            Some(Self::Harmony)
        } else if knows(&["<tool_call>"]) {
            Some(Self::Hermes)
        } else if knows(&["<|python_tag|>", "Environment: ipython"]) {
            Some(Self::Llama3)
        } else if knows(&["<|eot|>"]) && template.contains("tools") {
            Some(Self::Pythonic)
        } else if !template.contains("tools") {
            None
        } else {
            let by_token = [
                ("[TOOL_CALLS]", Self::Mistral),
                ("<|tool_calls_section_begin|>", Self::Kimi),
                ("<｜tool▁calls▁begin｜>", Self::DeepSeek),
                ("<|tool_call_start|>", Self::Pythonic),
                ("<|tool_call>", Self::Gemma),
                ("<start_function_call>", Self::Gemma),
                ("<minimax:tool_call>", Self::MiniMax),
                ("<arg_key>", Self::Glm),
                ("<|python_tag|>", Self::Llama3),
                ("<tool_call>", Self::Hermes),
            ];
            by_token
                .into_iter()
                .find(|(token, _)| has_token(token))
                .map(|(_, format)| format)
        }
    }

    /// The tokens of the format that vocabularies hold as special ones: a parser must be shown
    /// them, while other special tokens stay out of the text.
    #[must_use]
    pub fn marks(self) -> &'static [&'static str] {
        match self {
            Self::Hermes | Self::QwenXml => &["<tool_call>", "</tool_call>"],
            Self::Llama3 => &["<|python_tag|>"],
            Self::Mistral => &["[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"],
            Self::Pythonic => &["<|tool_call_start|>", "<|tool_call_end|>"],
            Self::Glm => &[
                "<tool_call>",
                "</tool_call>",
                "<arg_key>",
                "</arg_key>",
                "<arg_value>",
                "</arg_value>",
            ],
            Self::Kimi => kimi::MARKS,
            Self::MiniMax => &["<minimax:tool_call>", "</minimax:tool_call>"],
            Self::Gemma => gemma::MARKS,
            Self::DeepSeek => deepseek::MARKS,
            Self::Harmony => harmony::MARKS,
        }
    }

    pub(super) fn syntax(self, schemas: Schemas) -> Box<dyn Syntax> {
        match self {
            Self::Hermes => Box::new(hermes::Hermes),
            Self::Llama3 => Box::new(llama3::Llama3::default()),
            Self::Mistral => Box::new(mistral::Mistral),
            Self::Pythonic => Box::new(pythonic::Pythonic::default()),
            Self::QwenXml => Box::new(qwen_xml::QwenXml(schemas)),
            Self::Glm => Box::new(glm::Glm(schemas)),
            Self::Kimi => Box::new(kimi::Kimi),
            Self::MiniMax => Box::new(minimax::MiniMax(schemas)),
            Self::Gemma => Box::new(gemma::Gemma),
            Self::DeepSeek => Box::new(deepseek::DeepSeek(schemas)),
            Self::Harmony => Box::new(harmony::Harmony::default()),
        }
    }
}

impl fmt::Display for ToolFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ToolFormat {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let mut all = Self::ALL.iter();
        all.find(|format| format.name() == name)
            .copied()
            .ok_or_else(|| {
                let names: Vec<&str> = Self::ALL.iter().map(|format| format.name()).collect();
                format!("unknown format; known are {}", names.join(", "))
            })
    }
}
