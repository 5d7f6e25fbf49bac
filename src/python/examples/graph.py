"""A graph network in plain PyTorch on two communities: nodes and edges share no first dimension."""

import sys

import torch
from torch import Tensor, nn

import hessian_mpi


class GraphConvolution(nn.Module):
    """Each node gets the mean of its neighbours' features, then a linear layer."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        source, target = edges
        zeros = nodes.new_zeros(len(nodes), 1)
        degree = zeros.index_add(0, target, torch.ones_like(source, dtype=nodes.dtype)[:, None])
        return self.linear(torch.zeros_like(nodes).index_add(0, target, nodes[source]) / degree.clamp(min=1))


class GraphNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = GraphConvolution(4, 6), GraphConvolution(6, 2)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(nodes, edges)), edges)


def main(folder: str) -> None:
    torch.manual_seed(0)
    community = torch.arange(30) % 2
    near = (community[:, None] == community[None, :]).float() * 0.25 + 0.05
    edges = torch.bernoulli(near).nonzero().T.contiguous()                # [2, E]
    nodes = torch.randn(30, 4) + community[:, None]                       # [N, 4]

    H = hessian_mpi.hessian(GraphNetwork(), ((nodes, edges), community), loss="cross_entropy",
                            folder=folder, ranks=2)

    print(H["first.linear.weight", "second.linear.weight"].shape)


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["graph_job"]))
