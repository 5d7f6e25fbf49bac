"""A GPT-2 of transformers with the loss that it computes itself. Needs `pip install transformers`."""

import sys

import torch
from transformers import GPT2Config, GPT2LMHeadModel

import hessian_mpi


def main(folder: str) -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    net = GPT2LMHeadModel(config).eval()
    tokens = torch.randint(11, (4, 8))

    H = hessian_mpi.hessian(net, {"input_ids": tokens, "labels": tokens}, loss=lambda model, batch: model(**batch).loss,
                            folder=folder, ranks=2)

    print(H["transformer.h.0.attn.c_attn.weight", "transformer.wte.weight"].shape)
    print("trace", H.diagonal().sum())


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["language_model_job"]))
