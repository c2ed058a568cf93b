"""Lfm2Moe written for training on one CPU core.

Same arithmetic and same weights as transformers' Lfm2MoeForCausalLM (export.py checks the logits of both), but
* the experts run as a few large matrix products over tokens sorted by expert, and the head runs only on the positions
  that carry loss;
* matrix products are done in bf16, for which CPUs with AVX512-BF16 have instructions (five times the speed of
  float32 here); weights, the residual stream, norms and attention stay float32;
* what stands between two products is compiled into one loop (torch.compile: it wants g++ and Python's headers).
Rows are padded on the right: everything here is causal, so padding cannot reach a real token.
"""

import dataclasses
import os

# A matrix product is compiled for its exact sizes and kept. Sizes are rounded up below, so all of them fit in here.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "20000")

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


LENGTH_STEP, EXPERT_STEP = 16, 32  # row lengths, and rows per expert, are multiples of these


def round_up(n, step):
    return -(-n // step) * step


def fused(function):
    return torch.compile(function, dynamic=True)


@fused
def normalized(x, weight, eps, dtype):
    x = x.float()
    return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight).to(dtype)


@fused
def gated_conv(bcx, taps):
    """C * conv(B * x) over the current token and the two before it."""
    b, c, x = bcx.float().chunk(3, dim=-1)
    u = b * x
    one = F.pad(u[:, :-1], (0, 0, 1, 0))
    two = F.pad(u[:, :-2], (0, 0, 2, 0))
    return (c * (taps[:, 2] * u + taps[:, 1] * one + taps[:, 0] * two)).to(bcx.dtype)


@fused
def turned_heads(x, weight, eps, rotary):
    """(n, t, heads, head_dim) to (n, heads, t, head_dim): norm, then half-rotation RoPE, in float32."""
    cos, sin = rotary
    x = x.float()
    x = (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight).transpose(1, 2)
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin


@fused
def swiglu(gate_up):
    gate, up = gate_up.float().chunk(2, dim=-1)
    return (F.silu(gate) * up).to(gate_up.dtype)


@fused
def weighted_sum(weight, rows):
    """(T, K) and (T, K, D) to (T, D)"""
    return (weight[:, :, None] * rows.float()).sum(1).to(rows.dtype)


class Linear(nn.Linear):
    """No bias; multiplies in the type of its input."""

    def __init__(self, wide, narrow):
        super().__init__(wide, narrow, bias=False)

    def forward(self, x):
        return F.linear(x, self.weight.to(x.dtype))


class RmsNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps
        self.dtype = torch.bfloat16  # of what it gives to the matrix product behind it

    def forward(self, x):
        return normalized(x, self.weight, self.eps, self.dtype)


class ShortConv(nn.Module):
    """Gated depthwise convolution over the current token and the two before it."""

    def __init__(self, shape):
        super().__init__()
        d = shape.hidden_size
        self.in_proj = Linear(d, 3 * d)
        self.conv = nn.Parameter(torch.zeros(d, 1, 3))
        self.out_proj = Linear(d, d)

    def forward(self, x, rotary):
        del rotary
        return self.out_proj(gated_conv(self.in_proj(x), self.conv[:, 0, :]))


def rotary_tables(shape, length):
    """cos and sin of the half-rotation RoPE, each (length, head_dim)."""
    half = shape.head_dim // 2
    freq = shape.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * freq[None]
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos().float(), angle.sin().float()


class Attention(nn.Module):
    def __init__(self, shape):
        super().__init__()
        d, hd = shape.hidden_size, shape.head_dim
        self.heads, self.kv_heads = shape.num_attention_heads, shape.num_key_value_heads
        self.q_proj = Linear(d, self.heads * hd)
        self.k_proj = Linear(d, self.kv_heads * hd)
        self.v_proj = Linear(d, self.kv_heads * hd)
        self.out_proj = Linear(self.heads * hd, d)
        self.q_layernorm = RmsNorm(hd, shape.norm_eps)
        self.k_layernorm = RmsNorm(hd, shape.norm_eps)

    def forward(self, x, rotary):
        n, t, _ = x.shape
        looked = lambda y, heads, norm: turned_heads(y.view(n, t, heads, -1), norm.weight, norm.eps, rotary)
        q = looked(self.q_proj(x), self.heads, self.q_layernorm)
        k = looked(self.k_proj(x), self.kv_heads, self.k_layernorm)
        v = self.v_proj(x).float().view(n, t, self.kv_heads, -1).transpose(1, 2)
        group = self.heads // self.kv_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(y.transpose(1, 2).reshape(n, t, -1).to(x.dtype))


class DenseFeedForward(nn.Module):
    def __init__(self, shape):
        super().__init__()
        d, f = shape.hidden_size, shape.intermediate_size
        self.w1 = Linear(d, f)
        self.w3 = Linear(d, f)
        self.w2 = Linear(f, d)

    def forward(self, x):
        return self.w2(swiglu(torch.cat([self.w1(x), self.w3(x)], dim=-1)))


class Places:
    """Where each chosen (token, k) stands among rows sorted by expert, each expert's rows filled up to a round number.

    The filling rows are copies of token 0. Nobody reads what comes of them, so their gradient is zero.
    """

    def __init__(self, chosen, experts):
        chosen = chosen.reshape(-1)
        self.counts = torch.bincount(chosen, minlength=experts)
        room = (self.counts + EXPERT_STEP - 1) // EXPERT_STEP * EXPERT_STEP
        self.offsets = [0] + room.cumsum(0).tolist()
        order = torch.argsort(chosen, stable=True)
        moved = (room - self.counts).cumsum(0) - (room - self.counts)  # by the filling of the experts before
        place = torch.arange(chosen.numel()) + moved[chosen[order]]
        self.of_choice = torch.empty_like(order)
        self.of_choice[order] = place
        self.choice = torch.zeros(self.offsets[-1], dtype=torch.long)
        self.choice[place] = order


class Dispatch(torch.autograd.Function):
    """Rows of x in expert order. Each row goes to K places, so the gradient is a gather too, never a scatter."""

    @staticmethod
    def forward(ctx, x, places, k):
        ctx.places, ctx.k = places, k
        return x.index_select(0, places.choice // k)

    @staticmethod
    def backward(ctx, grad):
        rows = grad.index_select(0, ctx.places.of_choice)
        return rows.view(-1, ctx.k, grad.shape[-1]).float().sum(1).to(grad.dtype), None, None


class Combine(torch.autograd.Function):
    """Rows back in the order of the choices."""

    @staticmethod
    def forward(ctx, x, places):
        ctx.places = places
        return x.index_select(0, places.of_choice)

    @staticmethod
    def backward(ctx, grad):
        back = grad.new_zeros(len(ctx.places.choice), grad.shape[1])
        return back.index_copy_(0, ctx.places.of_choice, grad), None


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
        self.gate = Linear(d, e)
        self.gate_up_proj = nn.Parameter(torch.empty(e, 2 * f, d))
        self.down_proj = nn.Parameter(torch.empty(e, d, f))
        self.register_buffer("expert_bias", torch.zeros(e))
        self.register_buffer("load", torch.zeros(e), persistent=False)

    def forward(self, x):
        flat = x.reshape(-1, x.shape[-1])
        score = torch.sigmoid(self.gate(flat.float()))
        chosen = torch.topk(score.detach() + self.expert_bias, self.k, dim=-1).indices
        weight = score.gather(1, chosen)
        weight = weight / (weight.sum(-1, keepdim=True) + 1e-6)
        places = Places(chosen, self.gate.out_features)
        if self.training:
            self.load += places.counts
        rows = Dispatch.apply(flat, places, self.k)
        rows = GroupedLinear.apply(rows, self.gate_up_proj.to(x.dtype), places.offsets)
        rows = GroupedLinear.apply(swiglu(rows), self.down_proj.to(x.dtype), places.offsets)
        return weighted_sum(weight, Combine.apply(rows, places).view(-1, self.k, flat.shape[-1])).view(x.shape)


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

    def losses(self, ids, positions, targets):
        """Cross entropy of each target, predicted at the flat positions of ids (rows, length)."""
        targets_count, length = len(targets), ids.shape[1]
        ids = F.pad(ids, (0, round_up(length, LENGTH_STEP) - length))
        positions = positions // length * ids.shape[1] + positions % length
        filling = (0, round_up(targets_count, EXPERT_STEP) - targets_count)
        positions, targets = F.pad(positions, filling), F.pad(targets, filling)
        h = self.embed_tokens(ids)
        rotary = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        for layer in self.layers[:-1]:
            h = layer(h, rotary)
        last = self.layers[-1]  # its feed-forward and the head are needed only where there is a target
        h = h + last.operator(last.operator_norm(h), rotary)
        h = h.reshape(-1, self.shape.hidden_size).index_select(0, positions)
        h = self.embedding_norm(h + last.feed_forward(last.ffn_norm(h)))
        logits = F.linear(h, self.embed_tokens.weight.to(h.dtype)).float()
        return F.cross_entropy(logits, targets, reduction="none")[:targets_count]

    def multiply_in(self, dtype):
        for module in self.modules():
            if isinstance(module, RmsNorm):
                module.dtype = dtype
        return self

    def moe_layers(self):
        return [l.feed_forward for l in self.layers if isinstance(l.feed_forward, MoeFeedForward)]
