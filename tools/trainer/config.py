"""What is trained: the shapes of both models and the recipe they share, as Hugging Face configs say it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

INITIAL_DEVIATION = 0.02
NORM_EPSILON = 1e-6


@dataclass(frozen=True)
class ModelShape:
    """A Qwen3 decoder with tied embeddings (arXiv:2505.09388). `expert_count` 0: a dense MLP of `mlp_width`;
    otherwise a mixture of experts, each `mlp_width` wide, of which `experts_per_token` are computed."""

    name: str
    vocab_size: int
    hidden_size: int
    layer_count: int
    query_heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    expert_count: int
    experts_per_token: int
    context: int
    rope_base: float

    @property
    def expert_parameters(self) -> int:
        """Parameters of one expert, or of a layer's dense MLP: gate, up and down."""
        return 3 * self.hidden_size * self.mlp_width

    @property
    def attention_parameters(self) -> int:
        """Parameters of a layer's four attention matrices."""
        return self.hidden_size * self.head_dim * 2 * (self.query_heads + self.kv_heads)

    @property
    def matrix_parameters_per_token(self) -> int:
        """Matrix parameters that are multiplied with one token, output matrix and router included.

        Training costs 6 floating-point operations for each, beside attention's scores.
        """
        used = self.experts_per_token if self.expert_count else 1
        router = self.hidden_size * self.expert_count
        layer = self.attention_parameters + router + used * self.expert_parameters
        return self.layer_count * layer + self.vocab_size * self.hidden_size

    def to_huggingface(self, end_of_text: int) -> dict[str, Any]:
        """config.json as transformers reads it."""
        moe = self.expert_count > 0
        config: dict[str, Any] = {
            "architectures": ["Qwen3MoeForCausalLM" if moe else "Qwen3ForCausalLM"],
            "model_type": "qwen3_moe" if moe else "qwen3",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.mlp_width * max(1, self.experts_per_token),
            "num_hidden_layers": self.layer_count,
            "num_attention_heads": self.query_heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "max_position_embeddings": self.context,
            "rms_norm_eps": NORM_EPSILON,
            "rope_theta": self.rope_base,
            "tie_word_embeddings": True,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "initializer_range": INITIAL_DEVIATION,
            "bos_token_id": None,
            "eos_token_id": end_of_text,
            "torch_dtype": "bfloat16",
            "use_cache": True,
            "use_sliding_window": False,
        }
        if moe:
            config |= {
                "num_experts": self.expert_count,
                "num_experts_per_tok": self.experts_per_token,
                "moe_intermediate_size": self.mlp_width,
                "norm_topk_prob": True,
                "decoder_sparse_step": 1,
                "mlp_only_layers": [],
                "output_router_logits": False,
                "router_aux_loss_coef": Recipe().balance_weight,
            }
        return config


@dataclass(frozen=True)
class Recipe:
    """How both models are trained. A step is `sequences` x `length` tokens. The learning rate warms up,
    stays, and falls linearly to zero over the last `decay` of the steps (arXiv:2404.06395 calls it WSD), so
    that a run can be cut short by a smaller `steps`."""

    steps: int = 480
    sequences: int = 4
    length: int = 1024
    learning_rate: float = 3e-3
    warmup_steps: int = 40
    decay: float = 0.35
    momentum: float = 0.95
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    gradient_norm: float = 1.0
    balance_weight: float = 0.02
    balance_memory: float = 0.9
    seed: int = 20261124

    @property
    def tokens_per_step(self) -> int:
        """Tokens whose successor is predicted in one step."""
        return self.sequences * self.length

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of step `step`, counted from 0."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        left = (self.steps - step) / max(1.0, self.decay * self.steps)
        return self.learning_rate * min(warm, left, 1.0)


VOCAB_SIZE = 6144

SHAPES = {
    "moe-10m": ModelShape("moe-10m", VOCAB_SIZE, 256, 5, 4, 2, 64, 64, 32, 6, 1024, 10_000.0),
    "dense-4m": ModelShape("dense-4m", VOCAB_SIZE, 256, 5, 4, 2, 64, 384, 0, 0, 1024, 10_000.0),
}
