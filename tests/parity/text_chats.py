"""Chat templates that use what real ones use, and conversations to put through them."""

TEMPLATES = {
    # Turn marks, default system prompt, whitespace control, loop variables.
    "turns": """{% for message in messages %}
    {%- if loop.first and messages[0]['role'] != 'system' %}
        {{- '<|system|>\\nBe brief.<|end|>\\n' }}
    {%- endif %}
<|{{ message['role'] }}|>
{{ message.content | trim }}<|end|>
{% endfor %}
{% if add_generation_prompt %}
<|assistant|>
{% endif %}""",
    # Alternation check, namespaces, negative slices, bos and eos, string methods, thoughts.
    "thinking": """{{ bos_token }}{% set ns = namespace(last=-1, turns=0) %}
{%- for m in messages[::-1] if m.role == 'user' and ns.last == -1 %}{% set ns.last = messages | length - loop.index %}{% endfor %}
{%- for m in messages -%}
  {%- if m.role not in ['system', 'user', 'assistant', 'tool'] %}{{ raise_exception('Unknown role: ' + m.role) }}{% endif -%}
  {%- if m.content is string %}{% set text = m.content %}{% else %}{% set text = '' %}
    {%- for part in m.content or [] %}{% if part.type == 'text' %}{% set text = text ~ part['text'] %}[{{ part.text.upper().split()[0:2] | join('+') }}]{% else %}<{{ part['type'] }}>{% endif %}{% endfor %}
  {%- endif %}
  {%- if m.role == 'assistant' %}
    {%- set thoughts = m.reasoning_content if m.reasoning_content is defined else (text.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') if '</think>' in text else '') %}
    {%- set answer = text.split('</think>')[-1].lstrip('\\n') %}
    {%- generation %}A:{% if thoughts and not loop.last %}({{ thoughts.strip() }}){% endif %}{{ answer }}{{ eos_token }}{% endgeneration %}
  {%- else %}{{ m.role[0] | upper }}:{{ text.replace('\\n', ' / ') }}
  {%- endif %}
  {%- set ns.turns = ns.turns + 1 -%}
  {{ '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}A:{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}{% endif %} [{{ ns.turns }}{{ ' odd' if ns.turns is odd else '' }}]""",
    # Tools as JSON in several shapes, macros with defaults, loop controls, mappings.
    "tools": """{%- macro describe(spec, depth=0) -%}
{%- for key, value in spec.items() %}
{{ '  ' * depth }}- {{ key }}: {% if value is mapping %}{{ describe(value, depth + 1) }}{% elif value is iterable and value is not string %}[{{ value | join(' | ') }}]{% else %}{{ value }}{% endif %}
{%- endfor %}
{%- endmacro -%}
{%- if tools %}TOOLS {{ tools | length }}
{% for tool in tools %}{{ tool | tojson }}
{{ tool | tojson(indent=2) }}
{{ describe(tool.function if tool.function is defined else tool) }}
{% endfor %}{% endif %}
{%- for m in messages %}
{%- if m.role == 'system' %}{% continue %}{% endif %}
{%- if m.content == 'STOP' %}{% break %}{% endif %}
{{ loop.index0 }} {{ m['role'].capitalize() }} {{ m.content if m.content is defined else '(none)' }}
{%- for call in m.tool_calls or [] %}{% set f = call.function if 'function' in call else call %}
CALL {{ f.name }}({% for k, v in f.arguments.items() %}{{ k }}={{ v | tojson }}{{ ', ' if not loop.last }}{% endfor %}) id={{ call.get('id', 'none') }} {{ f.arguments | tojson }}
{%- endfor %}
{%- endfor %}
{% if documents %}{% for d in documents %}[{{ loop.index }}/{{ loop.length }}] {{ d.title | default('untitled') }}: {{ d['text'][:12] }}{% endfor %}{% endif %}""",
    # Values as Python prints them, tests, filters, literals, inline conditions.
    "values": """{#- A comment. -#}
{%- set v = {'n': 1, 'x': 2.0, 'tiny': 0.00001, 't': true, 'none': none, 'list': ['a', "it's", 3]} %}
{{ v }} {{ v.n }} {{ v.x }} {{ v.tiny }} {{ v.t }} {{ v.none }} {{ v.list }} {{ v.missing }} {{ v.list[-1] }} {{ v.list | first }}
{{ v.n / 2 }} {{ 7 // 2 }} {{ 7 % 3 }} {{ 2 ** 10 }} {{ 0 - v.n }} {{ v.x is number }} {{ v.t is boolean }} {{ v is mapping }} {{ 'a' is string }} {{ 'a' is sequence }} {{ v.missing is defined }}
{%- for m in messages %}
{{ m.role }}|{{ m.content | string | length }}|{{ (m.content | string)[:20] | tojson }}|{{ m.items() | list | length }}|{{ m.keys() | list | join(',') }}|{{ 'x' in (m.content | string) }}
{%- endfor %}
{%- raw %}
{% generation %} {{ not code }}
{%- endraw %}
{{ messages | map(attribute='role') | list }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ messages | rejectattr('role', 'equalto', 'user') | map(attribute='role') | join('-') }}
{{ [3, 1, 2] | sort | reverse | list }} {{ 'a,b,c'.split(',', 1) }} {{ '%' ~ 1 ~ none ~ true }} {{ range(3) | list }} {{ dict(a=1, b='c') | tojson(sort_keys=true) }} {{ '<a & "b">' | tojson }}""",
}

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city — \"now\" & <later>",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Name, e.g. Zürich"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "items": {"type": "array", "items": {"type": "number"}},
            },
            "required": ["city"],
        },
    },
}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 3, "exact": True, "limit": 1e-7, "skip": None}}}

CONVERSATIONS = [
    {"messages": [user("Hello")]},
    {"messages": [user("Hello")], "options": {"add_generation_prompt": True}},
    {"messages": [{"role": "system", "content": " Answer in one word. "}, user("  Why?\n\n")], "options": {"add_generation_prompt": True, "enable_thinking": False}},
    {"messages": [user("a"), assistant("<think>\nHm.\n</think>\n\nb"), user("c"), assistant("<think>\nOh.\n</think>\n\nd")]},
    {"messages": [user("a"), assistant("b", reasoning_content=" because "), user("c")], "options": {"add_generation_prompt": True, "enable_thinking": True}},
    {"messages": [user("Weather?"), assistant("", tool_calls=[CALL]), {"role": "tool", "tool_call_id": "call_1", "name": "get_weather", "content": "{\"temp\": 21.5}"}, assistant("21.5 °C")], "options": {"tools": [TOOL]}},
    {"messages": [user("Weather?"), assistant(None, tool_calls=[CALL, CALL])], "options": {"tools": [TOOL, TOOL], "add_generation_prompt": True}},
    {"messages": [user([{"type": "text", "text": "What is this?"}, {"type": "image", "image": "x.png"}])]},
    {"messages": [user("Ünïcödé 東京 🦀 <|end|> {{ x }} {% y %} \"q\" 'a' \\ \t\u200b\u0001 </think>"), assistant("ok")]},
    {"messages": [user("one"), {"role": "system", "content": "late"}, user("STOP"), user("never")]},
    {"messages": [user("q")], "options": {"documents": [{"title": "A", "text": "first document, long"}, {"text": "second"}]}},
    {"messages": [{"role": "critic", "content": "?"}]},
    {"messages": [user(""), assistant("")], "options": {"add_generation_prompt": True}},
    {"messages": [user("count"), assistant("1 2 3 ")], "options": {"continue_final_message": True}},
    {"messages": [{"weight": 0.5, "role": "user", "name": "Zoë", "content": "extra keys", "n": 10, "f": 1e16}]},
]
