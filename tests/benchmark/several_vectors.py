#!/usr/bin/env python3
"""Times products of a Hessian with several vectors together, as torch.func.vmap batches them, beside one by one: in PyTorch,
float32, on one core, with the graph of the gradient kept. Prints seconds of the processor for each vector, medians of three.
"""

import statistics
import time
from collections.abc import Callable

import problems
import products
import torch
from torch import Tensor, nn


def networks() -> dict[str, tuple[nn.Module, Tensor, Tensor]]:
    gpt, resnet = products.make("gpt", False), products.make("resnet18", False)
    mlp, lenet = ((model, *data) for model, data in (problems.make("mlp", False), problems.make("lenet")))
    few = {"GPT, 64 tokens": (gpt[0], gpt[1][:1], gpt[2][:1]), "ResNet-18, 4 images": (resnet[0], resnet[1][:4], resnet[2][:4])}
    return {"GPT, 512 tokens": gpt, "ResNet-18, 64 images": resnet, **few, "LeNet-5, 64 images": lenet, "MLP 64-64-64-10": mlp}


def seconds(work: Callable[[], list]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| network | vectors | one by one | together | gain |\n|---|---|---|---|---|")
    for name, (model, inputs, targets) in networks().items():
        parameters = list(model.parameters())
        gradient = torch.autograd.grad(nn.CrossEntropyLoss()(model(inputs), targets), parameters, create_graph=True)
        for count in (4, 8):
            vectors = [torch.randn(count, *p.shape) for p in parameters]

            def one_by_one() -> list:
                return [torch.autograd.grad(gradient, parameters, [v[k] for v in vectors], retain_graph=True) for k in range(count)]

            def together() -> list:
                return [torch.autograd.grad(gradient, parameters, vectors, retain_graph=True, is_grads_batched=True)]

            for found, expected in zip(together()[0], zip(*one_by_one())):
                torch.testing.assert_close(found, torch.stack(expected), rtol=1e-3, atol=1e-4 * found.abs().max().item())
            times = [(seconds(one_by_one) / count, seconds(together) / count) for _ in range(3)]
            one, all_at_once = (statistics.median(column) for column in zip(*times))
            print(f"| {name} | {count} | {one:.2g} | {all_at_once:.2g} | {one / all_at_once:.2f} |", flush=True)


if __name__ == "__main__":
    main()
