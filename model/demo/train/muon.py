"""Muon for the matrices, AdamW for the rest. Matrices may be stacked, (experts, rows, columns)."""

import torch


def orthogonal(g, steps=4):
    """Newton-Schulz: about the nearest matrix with all singular values one, for each matrix of the stack.

    In bf16: the directions matter, their last digits do not.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = g.shape[-2] > g.shape[-1]
    x = (g.mT if tall else g).bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return (x.mT if tall else x).float()


class Muon(torch.optim.Optimizer):
    def __init__(self, params, lr, momentum=0.95, weight_decay=0.0):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                update = orthogonal(p.grad.lerp(state["momentum"], group["momentum"]))
                scale = max(1.0, p.shape[-2] / p.shape[-1]) ** 0.5
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * scale)


def optimizers(network, matrix_lr=0.008, embedding_lr=8e-3, other_lr=2e-3, sharpness_lr=8e-3):
    """[Muon, AdamW, AdamW, AdamW] for a Network.

    The norms of queries and keys set how sharp attention can be; they move faster than the other norms, or copying
    waits for them.
    """
    groups = {"matrix": [], "embedding": [], "other": [], "sharpness": []}
    for name, p in network.named_parameters():
        if name.endswith("_layernorm.weight"):
            groups["sharpness"].append(p)
        elif "embed_tokens" in name:
            groups["embedding"].append(p)
        elif p.dim() == 1 or name.endswith(("gate.weight", ".conv")):
            groups["other"].append(p)
        else:
            groups["matrix"].append(p)
    adamw = lambda kind, lr: torch.optim.AdamW(groups[kind], lr, betas=(0.9, 0.95), weight_decay=0.0)
    return [Muon(groups["matrix"], matrix_lr, weight_decay=0.02), adamw("embedding", embedding_lr),
            adamw("other", other_lr), adamw("sharpness", sharpness_lr)]
