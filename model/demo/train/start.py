"""The first weights. Random ones would do in the end, but copying would be learnt late: a short run cannot wait.

Three things are given instead of learnt:
* Every embedding shares a constant part (it shifts all logits alike, so it says nothing), and the gates of the
  convolutions read it. Without it a gate has no way to be simply open, and what a convolution brings from the token
  before is scrambled by the current token.
* The first convolution carries the current token and the two before it on separate channels.
* The attention heads look for the place whose previous token is the current one, and write what stands there:
  induction heads. Half of them ask for the token before to agree too.
"""

import torch

CONSTANT = 8  # leading coordinates of the shared part
SPREAD = 0.4  # standard deviation of the embedding: of the size of what the layers write, or they drown it
SHARED = 2.2  # value of the shared coordinates: as long, together, as the rest of the embedding
SHARPNESS = 2.5  # of the query and key norms
LOGIT_SCALE = 0.1
FAST_PAIRS = 6  # rotary pairs that turn within a few tokens, of no use for looking far
CONV_OUT, COPY_OUT = 0.1, 0.12  # an operator writes about as much as the embedding holds


@torch.no_grad()
def reset(net):
    depth = (2 * len(net.layers)) ** -0.5
    for name, p in net.named_parameters():
        if p.dim() > 1:
            scale = depth if name.endswith(("out_proj.weight", "w2.weight", "down_proj")) else 1.0
            p.normal_(0, scale * 0.7 * p.shape[-1] ** -0.5)
    embedding = net.embed_tokens.weight.normal_(0, SPREAD)
    embedding[:, :CONSTANT] = SHARED
    net.embedding_norm.weight.fill_(LOGIT_SCALE)  # the head is the embedding again and expects small numbers
    for layer in net.layers:
        if hasattr(layer.operator, "in_proj"):
            open_gates(layer.operator)
    maps = [token_map(net.layers[0].operator, tap) for tap in (1, 0)]
    for layer in net.layers:
        if hasattr(layer.operator, "q_proj"):
            looking_heads(layer.operator, *maps)
        if hasattr(layer.feed_forward, "gate"):
            layer.feed_forward.gate.weight[:, :CONSTANT] = 0


def open_gates(conv):
    """B and C near one, each channel on one of the three taps."""
    d = conv.out_proj.weight.shape[0]
    w = conv.in_proj.weight
    w.normal_(0, 0.3 * d**-0.5)
    w[2 * d:].normal_(0, d**-0.5)
    w[2 * d:, :CONSTANT] = 0
    at_norm = SHARED * (d / (CONSTANT * SHARED**2 + d * SPREAD**2)) ** 0.5  # the shared part after the norm
    w[: 2 * d, :CONSTANT] = 1 / (CONSTANT * at_norm)
    conv.conv.normal_(0, 0.1)
    tap = torch.arange(d) % 3
    conv.conv[torch.arange(d), 0, tap] += 1
    conv.out_proj.weight.normal_(0, CONV_OUT * SPREAD)
    conv.out_proj.weight[:CONSTANT] = 0


def token_map(conv, tap):
    """(d, d): what the convolution writes about the token under this tap; tap 1 is the token before."""
    d = conv.out_proj.weight.shape[0]
    return (conv.out_proj.weight * conv.conv[:, 0, tap]) @ conv.in_proj.weight[2 * d:]


def seen_through(basis, token_map):
    """Reads basis from what token_map wrote, at the size of basis."""
    back = basis @ token_map.t()
    return back * (basis.norm() / back.norm())


def looking_heads(attention, before, before_that):
    """KV head 0 finds what followed the current token; the others want two tokens to agree."""
    hd = attention.q_layernorm.weight.shape[0]
    group = attention.heads // attention.kv_heads
    q, k = (p.weight.view(-1, hd, p.weight.shape[1]) for p in (attention.q_proj, attention.k_proj))
    v, o = attention.v_proj.weight, attention.out_proj.weight
    d = q.shape[-1]
    slow = (torch.arange(hd) % (hd // 2) >= FAST_PAIRS) * 0.8 + 0.2
    for kv in range(attention.kv_heads):
        basis, second = torch.randn(2, hd, d) * d**-0.5 * slow[:, None]
        k[kv] = seen_through(basis, before)
        query = basis
        if kv > 0:
            k[kv] += seen_through(second, before_that)
            query = basis + seen_through(second, before)
        for h in range(kv * group, (kv + 1) * group):
            q[h] = query + 0.3 * torch.randn(hd, d) * d**-0.5
    for p in (q, k):
        p[..., :CONSTANT] = 0
    v.normal_(0, d**-0.5)
    v[:, :CONSTANT] = 0
    heads = v.view(attention.kv_heads, hd, d).repeat_interleave(group, dim=0).reshape(-1, d)
    o.copy_(COPY_OUT * SPREAD * d**0.5 / group * heads.t() + 0.1 * SPREAD * torch.randn_like(o))
    for norm in (attention.q_layernorm, attention.k_layernorm):
        norm.weight.fill_(SHARPNESS)
