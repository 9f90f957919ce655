import faulty_networks as faulty
import torch
from faulty_networks import untrained as bare


def honest():
    model = bare(8)
    model.load_state_dict(torch.load("/tmp/pytest-of-root/pytest-323/weights0/standard.pt"))
    return model


def masked():
    return faulty.Detached(honest())


def guessing():
    return bare(8)
