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
    # Recursive macros over JSON schemas, filters with arguments, everything a loop knows.
    "constructs": """{#- typescript -#}
{%- macro ts(spec, required=[], nullable=false) -%}
{%- if spec.type == 'array' -%}{%- if spec['items'] -%}{{ ts(spec['items'], required) }}[]{%- else -%}any[]{%- endif -%}
{%- elif spec.type is defined and spec.type is iterable and spec.type is not string and spec.type is not mapping and spec.type[0] is defined -%}{{ spec.type | join(' | ') }}
{%- elif spec.oneOf -%}{%- for v in spec.oneOf %}{{ ts(v) }}{{ ' | ' if not loop.last }}{%- endfor -%}
{%- elif spec.type == 'string' -%}{%- if spec.enum -%}{{ '"' + spec.enum|join('" | "') + '"' }}{%- else -%}string{%- if nullable %} | null{%- endif -%}{%- endif -%}
{%- elif spec.type in ['number', 'integer'] -%}number
{%- elif spec.type == 'object' and spec.properties -%}{
{% for k, v in spec.properties.items() -%}
    {%- if v.description %}// {{ v.description }}
{% endif -%}
    {{ k }}{{ '?' if k not in (spec.required or []) }}: {{ ts(v, spec.required or []) }}{{ ',' if not loop.last }}
{% endfor -%}
}{%- else -%}any{%- endif -%}
{%- endmacro -%}
{%- set sys %}Today: {{ 'now' | upper }}{% endset %}
{{- bos_token ~ sys }}
{%- set ns = namespace(seen=[], n=0, last=none) %}
{%- for tool in tools or [] %}{% set f = tool.function %}
type {{ f.name }} = (_: {{ ts(f.parameters) }}) => any; // {{ f.description | replace('"', "'") | upper | lower | title }}
{%- set ns.seen = ns.seen + [f.name] %}{% endfor %}
{{ ns.seen | unique | list }} {{ ns.seen | length }}
{%- for message in messages %}
{%- if message.role == 'system' and loop.first %}{% continue %}{% endif %}
{%- if message.content is mapping or message.content is iterable and message.content is not string %}{{ message.content | tojson }}
{%- else %}
<{{ message['role'] | capitalize }} {{ loop.index }}/{{ loop.length }} {{ loop.cycle('odd', 'even') }} {{ loop.changed(message.role) }} prev={{ loop.previtem.role if loop.previtem is defined else '-' }} next={{ loop.nextitem.role if not loop.last else '-' }}>
{{ message.content[:30] | indent(2) }}|{{ message.content[-5:] | reverse }}|{{ message.content[::7] | trim }}|{{ message.content[::-2] if message.content }}
{%- endif %}
{%- if 'tool_calls' in message and message.tool_calls is not none and message.tool_calls|length > 0 %}
{%- if message.tool_calls | length != 1 %}[multi]{% endif %}
{%- set tool_call = message.tool_calls[0].function %}
{%- if tool_call.arguments is mapping %}
{%- for arg_name, arg_val in tool_call.arguments | items %}{{ arg_name + '="' + arg_val | string + '"' }}{{ ", " if not loop.last }}{% endfor %}
{{ tool_call.arguments | dictsort | map('first') | join(',') }} {{ tool_call.arguments.get('nope', {}) }} {{ tool_call.arguments.get('nope') is none }}
{{ tool_call.arguments|tojson(indent=4) }} {{ tool_call.arguments|tojson(ensure_ascii=true, separators=(',', ':')) }}
{%- else %}{{ tool_call.arguments }}{% endif %}
{%- endif %}
{%- set ns.n = ns.n + (1 if message.role == 'user' else 0) %}
{%- set ns.last = message %}
{%- endfor %}
{{ ns.n }} {{ ns.last.role }} {{ messages | groupby('role') | map('first') | list }} {{ messages|selectattr('reasoning_content', 'defined')|list|length }}
{% filter upper %}end {{ eos_token }}{% endfilter %}
{%- if add_generation_prompt is defined and add_generation_prompt %}
{{ '<|assistant|>' -}}
{%- endif -%}
""",
    # The grammar itself; says the same whatever the conversation.
    "grammar": """{% macro box(title, n=2) %}
[{{ title }}{{ '!' * n }}{{ caller() }}]
{% endmacro %}
  {% call box('t') %}
  inner {{ messages[0].role }}
  {% endcall %}
{% for a, b in [(1, 'x'), (2, 'y')] %}{{ a }}{{ b }}{% else %}none{% endfor %}
{% for x in [] %}x{% else %}none{% endfor %}
    {%+ if true %}  kept  {%+ endif %}
	{% if false %}{% elif not false and (1 < 2) %} ok {% endif %}  
{% with u = 5, w = 'a' %}{{ u }}{{ w }}{% endwith %}{{ u is defined }}
{% set a, b = 1, 'two' %}{{ a }}{{ b }} {{ [1,2,3][1:] }} {{ (1,) | length }} {{ [1,2,3] | sum }}
{{ 'abc'[1] }} {{ 'abc'[-1] }} {{ 'abc'[5:] }} {{ 'a' 'b' }} {{ "it's \\"q\\"" }} {{ 'tab\\there\\\\n' }} {{ 'ü' | length }}
{{ none }} {{ true }} {{ 1.0 }} {{ 1e3 }} {{ 10 ** 20 }} {{ 3 / 2 }} {{ 4 / 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 2.5 | int }} {{ '7' | int + 1 }} {{ 'x' | int }} {{ 3.14159 | round(2) }} {{ 5 | float }} {{ '1.5' | float }}
{{ [1, 'a', none, 2.5, true] }} {{ {'a': [1, {'b': none}], "k'": 'v"'} }} {{ [] }} {{ {} }} {{ 'a' in {'a': 1} }} {{ 1 in [1] }} {{ 'a' not in 'bc' }}
{{ [3,1,2] | sort }} {{ ['b','A','c'] | sort }} {{ [1,2,2,3] | unique | list }} {{ [1,2,3,4,5] | batch(2) | list }} {{ [1,2] | last }} {{ [1,2,3] | max }} {{ ['x','yy'] | map('length') | list }} {{ [0, 1, '', 'a'] | select | list }} {{ [1,2,3,4] | reject('odd') | list }}
{{ 'hello world' | title }} {{ 'HELLO' | capitalize }} {{ ' x ' | trim }}| {{ 'a-b' | replace('-', '+') }} {{ 'x' | default('d') }} {{ nope | default('d') }} {{ '' | default('d', true) }} {{ 'abc' | list }} {{ 'abc' | first }} {{ 'a\\nb' | indent }} {{ 'a,b' | string }} {{ '%s-%d' | format('a', 3) }} {{ 'a' ~ 1 ~ 2.0 ~ none }} {{ [1,2] | join }} {{ [1, none, 'x'] | join('-') }} {{ 'abc' | reverse }}
{{ 1 == 1.0 }} {{ 'a' < 'b' }} {{ 1 != 2 }} {{ not none }} {{ none == false }} {{ nope is none }} {{ nope is undefined }} {{ nope == none }} {{ '' or 'x' }} {{ none or [] }} {{ 'a' if nope else 'b' }} {{ 'a' if nope }}
{{ 4 is even }} {{ 3 is odd }} {{ 6 is divisibleby 3 }} {{ 'a' is lower }} {{ [1] is sequence }} {{ {} is mapping }} {{ 1 is integer }} {{ 1.5 is float }} {{ true is integer }} {{ true is number }} {{ none is none }} {{ true is true }} {{ 1 is true }} {{ 'x' is in ['x'] }} {{ 1 is sameas 1 }} {{ 'a' is eq 'a' }} {{ none is iterable }} {{ nope is iterable }}
{{ 'x'.upper() }} {{ 'a,b'.split(',')[1] }} {{ 'aXbX'.replace('X', '') }} {{ 'abc'.startswith(('x','a')) }} {{ 'a{}b{}'.format(1, 'z') }} {{ 'abc'.find('c') }} {{ ' a b '.strip().split() }} {{ 'a' * 3 }} {{ 'ab'.join(['1','2']) }} {{ 'Hello'.swapcase() }} 
{{ {'a':1,'b':2}.keys() | list }} {{ {'a':1}.values() | list }} {% for k, v in {'z':1,'a':2}.items() %}{{ k }}{{ v }}{% endfor %} {{ {'a': 1}['a'] }} {{ {'a': {'b': 2}}.a.b }} {{ {'a':1}.nope is defined }}
{{ range(5)[1:3] | list }} {{ range(10, 0, -3) | list }} {{ namespace(x=1).x }} {{ messages[99] is defined }}
{%- for i in range(6) if i is even %}{% if i == 4 %}{% break %}{% endif %}
 {{ loop.index }}{{ loop.revindex }}{{ loop.first }}
{%- endfor %}
{%- for m in messages recursive %}{{ m.role[0] }}{% if m.kids %}({{ loop(m.kids) }}){% endif %}{% endfor %}
{{ '<b>' | escape }} {{ '<b>' | safe }} {{ '<b>' }} {{ {'<': '&'} | tojson }}
{{ cycler is defined }} {{ loop is defined }}
	{# comment alone #}
{{ "trailing" }}   
   {#- stripped -#}   
end
""",
}
ONCE = {"grammar"}

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
