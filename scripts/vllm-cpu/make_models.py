"""Make tiny models with random weights (`--load-format dummy`) and a byte-level BPE tokenizer with a chat template.

usage: make_models.py DIR

The tokenizer is trained on the sources of Python's standard library: real text that is always at hand. Needs the
`tokenizers` package; vLLM's environment has it.
"""

import glob
import json
import os
import sys
import sysconfig

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
CHAT = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def train():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train(sorted(glob.glob(sysconfig.get_paths()["stdlib"] + "/*.py"))[:150], trainer)
    return tokenizer


def put(root, name, tokenizer, config):
    folder = f"{root}/{name}"
    os.makedirs(folder, exist_ok=True)

    def write(file, content):
        with open(f"{folder}/{file}", "w") as out:
            json.dump(content, out, indent=1)

    tokenizer.save(f"{folder}/tokenizer.json")
    write(
        "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|endoftext|>",
            "eos_token": "<|im_end|>",
            "pad_token": "<|pad|>",
            "unk_token": None,
            "model_max_length": 32768,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT,
            "add_bos_token": False,
        },
    )
    write("generation_config.json", {"bos_token_id": 0, "eos_token_id": [2], "pad_token_id": 3})
    write("config.json", config)


def main():
    root = sys.argv[1]
    tokenizer = train()
    base = dict(
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=3,
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=128,
        intermediate_size=256,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_hidden_layers=2,
        head_dim=32,
        hidden_act="silu",
        rms_norm_eps=1e-6,
        rope_theta=10000.0,
        torch_dtype="bfloat16",
        tie_word_embeddings=True,
        max_position_embeddings=8192,
        initializer_range=0.02,
        use_cache=True,
        attention_bias=False,
        attention_dropout=0.0,
    )
    experts = dict(moe_intermediate_size=64, num_experts_per_tok=2, norm_topk_prob=True)
    put(root, "tiny-llama", tokenizer, dict(base, architectures=["LlamaForCausalLM"], model_type="llama"))
    put(root, "tiny-qwen3", tokenizer, dict(base, architectures=["Qwen3ForCausalLM"], model_type="qwen3"))
    put(
        root,
        "tiny-qwen3-moe",
        tokenizer,
        dict(
            base,
            **experts,
            architectures=["Qwen3MoeForCausalLM"],
            model_type="qwen3_moe",
            num_experts=8,
            decoder_sparse_step=1,
            mlp_only_layers=[],
            router_aux_loss_coef=0.001,
        ),
    )
    put(
        root,
        "tiny-glm4-moe",
        tokenizer,
        {
            **base,
            **experts,
            "architectures": ["Glm4MoeForCausalLM"],
            "model_type": "glm4_moe",
            "num_hidden_layers": 3,
            "n_routed_experts": 8,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
            "n_group": 1,
            "topk_group": 1,
            "routed_scaling_factor": 1.0,
            "partial_rotary_factor": 0.5,
            "use_qk_norm": True,
            "num_nextn_predict_layers": 1,
        },
    )
    print(f"vocabulary {tokenizer.get_vocab_size()}, models in {root}")


if __name__ == "__main__":
    main()
