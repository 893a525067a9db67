"""Tiny random models, a byte-level tokenizer and tokens, for tests here and of whoever builds on this
package.

    model = tiny_llama()            # LLaMA with 2 blocks, in a few milliseconds; the same weights every time
    tokens = tiny_tokens(64)        # int64 (64,)
"""

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from qubo_prune.forward import forward_of
from qubo_prune.layers import Layer

VOCABULARY = 258
"""256 bytes, then `<|end|>` and `<unk>`: the tiny tokenizer's, and the tiny models'."""

_LLAMA_LIKE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 256,
    "eos_token_id": 256,
    "pad_token_id": 256,
}


def _build(config_class: str, model_class: str, seed: int, **settings: Any) -> nn.Module:
    """A transformers model of a configuration, with weights drawn from `seed`."""
    import transformers

    config = getattr(transformers, config_class)(**settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = getattr(transformers, model_class)(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:  # larger than the usual 0.02, so that pruning changes what the model says
                nn.init.normal_(parameter, std=0.2)
    model.tie_weights()
    built: nn.Module = model.float().eval()
    return built


def tiny_llama(seed: int = 0, **settings: Any) -> nn.Module:
    """LLaMA, 2 blocks of width 16, grouped queries, head not tied; `settings` override the configuration."""
    return _build(
        "LlamaConfig", "LlamaForCausalLM", seed, **{**_LLAMA_LIKE, "tie_word_embeddings": False, **settings}
    )


def tiny_qwen2(seed: int = 0, **settings: Any) -> nn.Module:
    """Qwen2, 2 blocks of width 16 with biases on q, k and v, head tied to the embedding."""
    return _build(
        "Qwen2Config", "Qwen2ForCausalLM", seed, **{**_LLAMA_LIKE, "tie_word_embeddings": True, **settings}
    )


def tiny_mistral(seed: int = 0, **settings: Any) -> nn.Module:
    """Mistral, 2 blocks of width 16, head not tied."""
    return _build(
        "MistralConfig", "MistralForCausalLM", seed, **{**_LLAMA_LIKE, "sliding_window": None, **settings}
    )


def tiny_gemma(seed: int = 0, **settings: Any) -> nn.Module:
    """Gemma, 2 blocks of width 16, head tied to the embedding."""
    return _build("GemmaConfig", "GemmaForCausalLM", seed, **{**_LLAMA_LIKE, "head_dim": 4, **settings})


def tiny_gpt2(seed: int = 0, **settings: Any) -> nn.Module:
    """GPT-2, 2 blocks of width 16: Conv1D layers, which store (in, out); head tied to the embedding."""
    tiny: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "n_positions": 128,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 4,
        "bos_token_id": 256,
        "eos_token_id": 256,
    }
    return _build("GPT2Config", "GPT2LMHeadModel", seed, **{**tiny, **settings})


def tiny_opt(seed: int = 0, **settings: Any) -> nn.Module:
    """OPT, 2 blocks of width 16, head tied to the embedding."""
    tiny: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "word_embed_proj_dim": 16,
        "ffn_dim": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "bos_token_id": 256,
        "eos_token_id": 256,
        "pad_token_id": 256,
        "dropout": 0.0,
    }
    return _build("OPTConfig", "OPTForCausalLM", seed, **{**tiny, **settings})


TINY_MODELS: dict[str, Callable[[], nn.Module]] = {
    "llama": tiny_llama,
    "gpt2": tiny_gpt2,
    "opt": tiny_opt,
    "qwen2": tiny_qwen2,
    "mistral": tiny_mistral,
    "gemma": tiny_gemma,
}
"""Family -> factory of a tiny random model."""


def tiny_mlp(seed: int = 0, sizes: tuple[int, ...] = (6, 8, 8, 4)) -> nn.Sequential:
    """A ReLU network of plain linear layers, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        modules: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            modules += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*modules[:-1]).eval()


def tiny_tokenizer() -> Any:
    """A tokenizer of one token a byte (ids 0 to 255), `<|end|>` = 256 and `<unk>` = 257; adds no BOS."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    vocabulary |= {"<|end|>": 256, "<unk>": 257}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", unk_token="<unk>", pad_token="<|end|>"
    )


def tiny_tokens(n: int, seed: int = 0, vocabulary: int = VOCABULARY) -> Tensor:
    """int64 (n,) token ids, uniform in [0, vocabulary), the same for the same seed."""
    return torch.randint(vocabulary, (n,), generator=torch.Generator().manual_seed(seed))


def inputs_of(model: nn.Module, layer: Layer, data: Iterable[Any]) -> Tensor:
    """(T, in) float64 inputs of a layer, position by position, by whole passes of the batches."""
    seen: list[Tensor] = []
    handle = layer.module.register_forward_pre_hook(
        lambda module, args: seen.append(args[0].detach().reshape(-1, args[0].shape[-1]).double())
    )
    with torch.no_grad():
        for batch in data:
            forward_of(model)(batch)
    handle.remove()
    return torch.cat(seen)
