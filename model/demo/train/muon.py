"""Muon for the matrices, AdamW for the rest. Matrices may be stacked, (experts, rows, columns)."""

import torch


def orthogonal(g, steps=4):
    """Newton-Schulz: about the nearest matrix with all singular values one, for each matrix of the stack."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = g.shape[-2] > g.shape[-1]
    x = g.mT if tall else g
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if tall else x


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


def optimizers(network, matrix_lr=0.02, other_lr=3e-3):
    """[Muon, AdamW] for a Network; the router, the convolution kernels and the embedding are AdamW's."""
    matrices, others = [], []
    for name, p in network.named_parameters():
        small = p.dim() == 1 or "embed_tokens" in name or name.endswith(("gate.weight", ".conv"))
        (others if small else matrices).append(p)
    return [Muon(matrices, matrix_lr, weight_decay=0.02),
            torch.optim.AdamW(others, other_lr, betas=(0.9, 0.95), weight_decay=0.0)]
