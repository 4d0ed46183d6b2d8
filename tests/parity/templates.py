"""Chat templates in the styles that models in the field use, written down here, and what transformers makes of them."""

CHATML = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
          "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
TEMPLATES = {
    "chatml": CHATML,
    "chatml-default-system": (
        "{%- if messages[0]['role'] == 'system' %}\n    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}\n"
        "{%- else %}\n    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}\n{%- endif %}\n"
        "{%- for message in messages %}\n    {%- if (message.role == \"user\") or (message.role == \"system\" and not loop.first) or "
        "(message.role == \"assistant\" and not message.tool_calls) %}\n        {{- '<|im_start|>' + message.role + '\\n' + message.content + "
        "'<|im_end|>' + '\\n' }}\n    {%- endif %}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n"),
    "header-ids": (
        "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + "
        "'<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
        "{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"),
    "inst-with-sys": (
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}"
        "{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
        "{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
        "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}"
        "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
        "{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"),
    "inst-plain": (
        "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token + ' ' }}{% else %}{{ message['content'] }}{% endif %}{% endfor %}"),
    "instruction-response": (
        "{%- set found = namespace(value=false) -%}\n{%- for message in messages -%}\n    {%- if message['role'] == 'system' -%}\n"
        "        {%- set found.value = true -%}\n    {%- endif -%}\n{%- endfor -%}\n{{bos_token}}{%- if not found.value -%}\n"
        "{{'You are a programming assistant.\\n'}}\n{%- endif %}\n{%- for message in messages %}\n    {%- if message['role'] == 'system' %}\n"
        "{{ message['content'] }}\n    {%- else %}\n        {%- if message['role'] == 'user' %}\n{{'### Instruction:\\n' + message['content'] + '\\n'}}\n"
        "        {%- else %}\n{{'### Response:\\n' + message['content'] + '\\n<|EOT|>\\n'}}\n        {%- endif %}\n    {%- endif %}\n{%- endfor %}\n"
        "{% if add_generation_prompt %}\n{{'### Response:'}}\n{%- endif %}"),
    "role-pipes": (
        "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n"
        "{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n"
        "{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n"
        "{% endif %}\n{% endfor %}"),
    "turns-model": (
        "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}"
        "{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"),
    "role-pipes-end": (
        "{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}"
        "{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}"
        "{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}"
        "{% else %}{{ eos_token }}{% endif %}"),
    "user-assistant-words": (
        "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] + ' ' }}{% elif message['role'] == 'user' %}"
        "{{ 'USER: ' + message['content'] + ' ' }}{% else %}{{ 'ASSISTANT: ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"),
    "alpaca": (
        "{{ (messages|selectattr('role', 'equalto', 'system')|list|last).content|trim if (messages|selectattr('role', 'equalto', 'system')|list) else '' }}\n\n"
        "{% for message in messages %}\n{% if message['role'] == 'user' %}\n### Instruction:\n{{ message['content']|trim }}\n\n"
        "{% elif message['role'] == 'assistant' %}\n### Response:\n{{ message['content']|trim }}\n\n{% endif %}\n{% endfor %}\n"
        "{% if add_generation_prompt %}\n### Response:\n{% endif %}"),
    "tools-json": (
        "{%- if tools %}{{- '# Tools\\n' }}{%- for tool in tools %}{{- tool | tojson }}{{- '\\n' }}{%- endfor %}{%- endif %}"
        "{%- for m in messages %}{{- m.role ~ ': ' ~ m.content ~ '\\n' }}{%- endfor %}"),
    "tools-json-indented": "{% if tools %}{{ tools | tojson(indent=2) }}\n{% endif %}{% for m in messages %}{{ m.content }}\n{% endfor %}",
    "python-methods": (
        "{% for m in messages %}{{ m['role'].upper() }}|{{ m['content'].strip().split('\n')[0] }}|{{ m['content'].replace('a', 'A').rstrip() }}|"
        "{% if m['content'].startswith('W') %}W{% endif %}|{{ m.get('name', 'nobody') }}\n{% endfor %}"),
    "break-and-continue": (
        "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{% if loop.index > 3 %}{% break %}{% endif %}{{ m.content }};{% endfor %}"),
    "plain": "{% for message in messages %}{{ message['content'] }}{% endfor %}",
}
CONVERSATIONS = [
    [{"role": "user", "content": "Write a program that adds two numbers."}],
    [{"role": "user", "content": " Wie geht's? 漢字 🙂 <b>&amp;</b>\n"},
     {"role": "assistant", "content": "  def f(x):\n      return x\n"}, {"role": "user", "content": "again"}],
    [{"role": "system", "content": "Answer with code only."}, {"role": "user", "content": "What is \"7\" + '8'?"}],
]
TOOLS = [{"type": "function", "function": {"name": "run", "description": "Runs <code> & returns",
                                           "parameters": {"z": {"type": "string"}, "a": {"enum": [1, 2.5, None, True]}}}}]


def cases(tokenizer):
    out = []
    for name, template in TEMPLATES.items():
        for messages in CONVERSATIONS:
            for prompt in (True, False):
                tools = TOOLS if "tools" in name else None
                text = tokenizer.apply_chat_template(messages, chat_template=template, tools=tools, tokenize=False,
                                                     add_generation_prompt=prompt)
                out.append({"name": name, "template": template, "messages": messages, "tools": tools,
                            "add_generation_prompt": prompt, "text": text})
    return out
