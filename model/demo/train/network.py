"""Lfm2Moe written for training on one CPU core.

Same arithmetic and same weights as transformers' Lfm2MoeForCausalLM (export.py checks the logits of both), but the
experts run as a few large matrix products over tokens sorted by expert, and the head runs only on the positions
that carry loss. Rows are padded on the right: everything here is causal, so padding cannot reach a real token.
"""

import dataclasses

import torch
from torch import nn
import torch.nn.functional as F

import start


@dataclasses.dataclass(frozen=True)
class Shape:
    """The sizes of the model; field names follow config.json."""

    vocab_size: int = 2048
    hidden_size: int = 256
    intermediate_size: int = 512
    moe_intermediate_size: int = 96
    layer_types: tuple = ("conv", "conv", "full_attention", "conv", "full_attention", "conv", "full_attention")
    num_dense_layers: int = 1
    num_attention_heads: int = 8
    num_key_value_heads: int = 2
    num_experts: int = 8
    num_experts_per_tok: int = 2
    rope_theta: float = 1000000.0
    norm_eps: float = 1e-5
    max_position_embeddings: int = 8192

    @property
    def head_dim(self):
        return self.hidden_size // self.num_attention_heads


class RmsNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class ShortConv(nn.Module):
    """Gated depthwise convolution over the current token and the two before it."""

    def __init__(self, shape):
        super().__init__()
        d = shape.hidden_size
        self.in_proj = nn.Linear(d, 3 * d, bias=False)
        self.conv = nn.Parameter(torch.zeros(d, 1, 3))
        self.out_proj = nn.Linear(d, d, bias=False)

    def forward(self, x, rotary):
        del rotary
        b, c, x = self.in_proj(x).chunk(3, dim=-1)
        u = b * x
        w = self.conv[:, 0, :]
        one = F.pad(u[:, :-1], (0, 0, 1, 0))
        two = F.pad(u[:, :-2], (0, 0, 2, 0))
        return self.out_proj(c * (w[:, 2] * u + w[:, 1] * one + w[:, 0] * two))


def rotary_tables(shape, length):
    """cos and sin of the half-rotation RoPE, each (length, head_dim)."""
    half = shape.head_dim // 2
    freq = shape.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * freq[None]
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos().float(), angle.sin().float()


def rotate(x, rotary):
    cos, sin = rotary
    half = x.shape[-1] // 2
    turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
    return x * cos + turned * sin


class Attention(nn.Module):
    def __init__(self, shape):
        super().__init__()
        d, hd = shape.hidden_size, shape.head_dim
        self.heads, self.kv_heads = shape.num_attention_heads, shape.num_key_value_heads
        self.q_proj = nn.Linear(d, self.heads * hd, bias=False)
        self.k_proj = nn.Linear(d, self.kv_heads * hd, bias=False)
        self.v_proj = nn.Linear(d, self.kv_heads * hd, bias=False)
        self.out_proj = nn.Linear(self.heads * hd, d, bias=False)
        self.q_layernorm = RmsNorm(hd, shape.norm_eps)
        self.k_layernorm = RmsNorm(hd, shape.norm_eps)

    def forward(self, x, rotary):
        n, t, _ = x.shape
        q = self.q_layernorm(self.q_proj(x).view(n, t, self.heads, -1)).transpose(1, 2)
        k = self.k_layernorm(self.k_proj(x).view(n, t, self.kv_heads, -1)).transpose(1, 2)
        v = self.v_proj(x).view(n, t, self.kv_heads, -1).transpose(1, 2)
        q, k = rotate(q, rotary), rotate(k, rotary)
        group = self.heads // self.kv_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(y.transpose(1, 2).reshape(n, t, -1))


class DenseFeedForward(nn.Module):
    def __init__(self, shape):
        super().__init__()
        d, f = shape.hidden_size, shape.intermediate_size
        self.w1 = nn.Linear(d, f, bias=False)
        self.w3 = nn.Linear(d, f, bias=False)
        self.w2 = nn.Linear(f, d, bias=False)

    def forward(self, x):
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Dispatch(torch.autograd.Function):
    """Rows of x in expert order, and back. A permutation, so the gradient is a gather too, never a scatter."""

    @staticmethod
    def forward(ctx, x, order, inverse, k):
        ctx.inverse, ctx.k = inverse, k
        return x.index_select(0, order // k)

    @staticmethod
    def backward(ctx, grad):
        rows = grad.index_select(0, ctx.inverse)
        return rows.view(-1, ctx.k, grad.shape[-1]).sum(1), None, None, None


class Permute(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, order, inverse):
        ctx.inverse = inverse
        return x.index_select(0, order)

    @staticmethod
    def backward(ctx, grad):
        return grad.index_select(0, ctx.inverse), None, None


class GroupedLinear(torch.autograd.Function):
    """y[rows of e] = x[rows of e] @ weight[e].T with rows sorted by expert."""

    @staticmethod
    def forward(ctx, x, weight, offsets):
        ctx.save_for_backward(x, weight)
        ctx.offsets = offsets
        y = x.new_empty(x.shape[0], weight.shape[1])
        for e, (a, b) in enumerate(zip(offsets, offsets[1:])):
            torch.mm(x[a:b], weight[e].t(), out=y[a:b])
        return y

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        dx, dw = torch.empty_like(x), torch.empty_like(weight)
        for e, (a, b) in enumerate(zip(ctx.offsets, ctx.offsets[1:])):
            torch.mm(grad[a:b], weight[e], out=dx[a:b])
            torch.mm(grad[a:b].t(), x[a:b], out=dw[e])
        return dx, dw, None


class MoeFeedForward(nn.Module):
    """Sigmoid router with a selection-only bias, top-k experts."""

    def __init__(self, shape):
        super().__init__()
        d, f, e = shape.hidden_size, shape.moe_intermediate_size, shape.num_experts
        self.k = shape.num_experts_per_tok
        self.gate = nn.Linear(d, e, bias=False)
        self.gate_up_proj = nn.Parameter(torch.empty(e, 2 * f, d))
        self.down_proj = nn.Parameter(torch.empty(e, d, f))
        self.register_buffer("expert_bias", torch.zeros(e))
        self.register_buffer("load", torch.zeros(e), persistent=False)

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        score = torch.sigmoid(self.gate(flat))
        chosen = torch.topk(score.detach() + self.expert_bias, self.k, dim=-1).indices
        weight = score.gather(1, chosen)
        weight = weight / (weight.sum(-1, keepdim=True) + 1e-6)
        experts = chosen.reshape(-1)
        order = torch.argsort(experts, stable=True)
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(order.numel())
        counts = torch.bincount(experts, minlength=self.gate.out_features)
        if self.training:
            self.load += counts
        offsets = [0] + counts.cumsum(0).tolist()
        rows = Dispatch.apply(flat, order, inverse, self.k)
        gate, up = GroupedLinear.apply(rows, self.gate_up_proj, offsets).chunk(2, dim=-1)
        out = GroupedLinear.apply(F.silu(gate) * up, self.down_proj, offsets)
        out = Permute.apply(out, inverse, order).view(-1, self.k, flat.shape[-1])
        return torch.bmm(weight[:, None, :], out).view(x.shape)


class Layer(nn.Module):
    def __init__(self, shape, index):
        super().__init__()
        d, eps = shape.hidden_size, shape.norm_eps
        self.operator_norm, self.ffn_norm = RmsNorm(d, eps), RmsNorm(d, eps)
        attention = shape.layer_types[index] == "full_attention"
        self.operator = Attention(shape) if attention else ShortConv(shape)
        dense = index < shape.num_dense_layers
        self.feed_forward = DenseFeedForward(shape) if dense else MoeFeedForward(shape)

    def forward(self, h, rotary):
        h = h + self.operator(self.operator_norm(h), rotary)
        return h + self.feed_forward(self.ffn_norm(h))


class Network(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList([Layer(shape, i) for i in range(len(shape.layer_types))])
        self.embedding_norm = RmsNorm(shape.hidden_size, shape.norm_eps)
        cos, sin = rotary_tables(shape, shape.max_position_embeddings)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.reset()

    def reset(self):
        start.reset(self)

    def hidden(self, ids):
        """(rows, length) token ids to (rows, length, hidden_size) after the final norm."""
        h = self.embed_tokens(ids)
        rotary = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        for layer in self.layers:
            h = layer(h, rotary)
        return self.embedding_norm(h)

    def losses(self, ids, positions, targets):
        """Cross entropy of each target, predicted at the flat positions of ids."""
        h = self.embed_tokens(ids)
        rotary = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        for layer in self.layers[:-1]:
            h = layer(h, rotary)
        last = self.layers[-1]  # its feed-forward and the head are needed only where there is a target
        h = h + last.operator(last.operator_norm(h), rotary)
        h = h.reshape(-1, self.shape.hidden_size).index_select(0, positions)
        h = self.embedding_norm(h + last.feed_forward(last.ffn_norm(h)))
        return F.cross_entropy(F.linear(h, self.embed_tokens.weight), targets, reduction="none")

    def moe_layers(self):
        return [l.feed_forward for l in self.layers if isinstance(l.feed_forward, MoeFeedForward)]
