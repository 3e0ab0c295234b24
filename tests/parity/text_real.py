"""What hostile strings are made of, and conversations with tools and thoughts."""

import random

PIECES = [
    " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\r", " \n ", "\u00a0", "\u2003", "\u3000", "\u200b", "\ufeff", "\u2028",
    "the", "The", " the", "hello", " World", "it's", "I'LL", "we've", "don\u2019t", "na\u00efve", "Stra\u00dfe", "\u0130stanbul",
    "0", "1", "12", "123", "1234", "12345678", "3.14", "1e-5", "0x1F", "\u0663\u0664", "\u00bd", "\u2163", "\u00b2",
    ".", ",", "!", "?!", "...", "\u2026", "--", "\u2014", "'", "\"", "''", "``", "(", ")", "[]", "{}", "<", ">", "</", "/>", "=>", "!=", "&&", "||",
    "#", "##", "@", "$", "%", "^", "&", "*", "**", "_", "__", "\\", "\\n", "/", "//", "~", ";", ":", "::",
    "\u4f60\u597d", "\u4e16\u754c", "\u65e5\u672c\u8a9e", "\u3053\u3093\u306b\u3061\u306f", "\u30ab\u30bf\u30ab\u30ca", "\ud55c\uad6d\uc5b4", "\u0645\u0631\u062d\u0628\u0627", "\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd",
    "\u041f\u0440\u0438\u0432\u0435\u0442", "\u0939\u093f\u0928\u094d\u0926\u0940", "\u0e44\u0e17\u0e22", "\u1e9b\u0323", "e\u0301", "\u00e9", "a\u0308\u0301", "\u212b", "\ufb01", "\uff21\uff22", "\u0300",
    "\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1eb\U0001f1f7", "\u2764\ufe0f", "\U0001f44d\U0001f3fd", "\U00010348", "\U0002070e",
    "\x00", "\x01", "\x1b", "\x7f", "\x85", "\ufffd", "\ue000", "\uffff", "\U000e0041",
    "<s>", "</s>", "<unk>", "<pad>", "<bos>", "<eos>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>",
    "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|python_tag|>", "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]", "[TOOL_CALLS]",
    "<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<\uff5cUser\uff5c>", "<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5ctool\u2581sep\uff5c>",
    "<|im_", "start|>", "<0x0A>", "\u2581", "\u2581the", "\u0120", "\u0120the", "\u010a", "\u00e2\u0080\u0099",
    "def f(x):\n    return x", "\n\t\tif (a<b) {", "https://example.com/?a=1&b=%20", "SELECT * FROM t;", "\\frac{a}{b}", "camelCase", "SCREAMING_SNAKE", "\u00e7a va", "aaaaaaaaaaaaaaaa", "        ",
]

# For packages that carry no template, or a shorter one than the model's own.
TEMPLATES = {
    "gptoss": """{%- set channels = namespace(last='final') -%}
<|start|>system<|message|>Current date: {{ strftime_now("%Y-%m-%d") }}
Reasoning: {{ reasoning_effort | default('medium') }}
# Valid channels: analysis, commentary, final.{%- if tools %}
Calls to these tools must go to the commentary channel: 'functions'.{%- endif %}<|end|>
{%- for message in messages -%}
{%- if message.role == 'assistant' and message.tool_calls -%}
{%- if message.thinking is defined %}<|start|>assistant<|channel|>analysis<|message|>{{ message.thinking }}<|end|>{% endif -%}
{%- for call in message.tool_calls %}<|start|>assistant to=functions.{{ call.function.name }}<|channel|>commentary json<|message|>{{ call.function.arguments | tojson }}<|call|>{% endfor -%}
{%- elif message.role == 'tool' -%}<|start|>functions<|channel|>commentary<|message|>{{ message.content | tojson }}<|end|>
{%- else -%}<|start|>{{ message.role }}<|message|>{{ message.content }}<|end|>{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}<|start|>assistant{% endif %}""",
}

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city, in \u00b0C or \u201cdegrees\u201d <b>F</b> & more",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "It's a name"},
                    "days": {"type": "integer", "minimum": 1},
                    "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                },
                "required": ["city"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "search",
            "description": "Finds things.",
            "parameters": {
                "type": "object",
                "properties": {"query": {"type": "string"}, "filters": {"type": "array", "items": {"type": "object"}}, "exact": {"type": "boolean"}},
            },
        },
    },
]

WORDS = ["What's up?", "  spaces  ", "Line one\nline two\n", "Caf\u00e9 \u4f60\u597d \U0001f600", "<think>not mine</think> ok", "{{ not a template }}", "\"quoted\" \\ back", "1 < 2 && 3 > 2", "x" * 40, "Tell me about <tool_call> tags."]


def conversations():
    """Fifty conversations: with and without system message, tools, calls, results and thoughts."""
    chance = random.Random(5)
    chats = []
    for n in range(50):
        messages = []
        if n % 3 == 0:
            messages.append({"role": "system", "content": chance.choice(WORDS)})
        for turn in range(1 + n % 4):
            messages.append({"role": "user", "content": chance.choice(WORDS)})
            last = turn == n % 4
            if n % 5 in (1, 3):
                arguments = {"city": chance.choice(["Rome", "S\u00e3o Paulo", "\u6771\u4eac"]), "days": chance.randint(1, 9)}
                call = {"type": "function", "function": {"name": "get_weather", "arguments": arguments}}
                if n % 2:
                    call["id"] = "call%05d" % chance.randrange(10**5)
                reply = {"role": "assistant", "content": "" if n % 4 else "Let me look.", "tool_calls": [call]}
                if n % 5 == 3:
                    reply["reasoning_content"] = "I need\nthe weather."
                messages.append(reply)
                result = {"role": "tool", "name": "get_weather", "content": chance.choice(['{"t": 21.5}', "sunny \u2600"])}
                if "id" in call:
                    result["tool_call_id"] = call["id"]
                messages.append(result)
                if last and n % 2:
                    break
                messages.append({"role": "assistant", "content": chance.choice(WORDS)})
            elif not last or n % 7 == 0:
                reply = {"role": "assistant", "content": chance.choice(WORDS)}
                if n % 5 == 2:
                    reply["content"] = "<think>\nHm, " + chance.choice(WORDS) + "\n</think>\n\n" + reply["content"]
                if n % 5 == 4:
                    reply["reasoning_content"] = chance.choice(WORDS)
                messages.append(reply)
        chat = {"messages": messages, "options": {"add_generation_prompt": n % 7 != 0}}
        if n % 5 in (1, 3) or n % 11 == 0:
            chat["tools"] = TOOLS[: 1 + n % 2]
        if n % 4 == 1:
            chat["options"]["enable_thinking"] = n % 8 == 1
        if n % 13 == 0:
            chat["options"]["date_string"] = "01 Jan 2026"
        chats.append(chat)
    return chats
