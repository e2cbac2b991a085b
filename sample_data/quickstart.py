"""Record a training with three lines in a plain PyTorch loop: `python quickstart.py run.h5`."""

import sys

import torch
from sklearn.datasets import load_digits

import trajfile

torch.manual_seed(0)
images, labels = (torch.tensor(array) for array in load_digits(return_X_y=True))
images = images.float() / 16
model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)

with trajfile.Writer(
    sys.argv[1] if len(sys.argv) > 1 else "run.h5",
    optimizer={"name": "SGD", "momentum": 0.9, "weight_decay": 5e-4},
    gradient={"stage": "raw", "source": "mini_batch", "batch_size": 64},
) as run:
    for step in range(600):
        batch = torch.randint(len(labels), (64,))
        loss = torch.nn.functional.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        if step % 20 == 0:
            run.append(
                step,
                params=dict(model.named_parameters()),
                gradients={name: p.grad for name, p in model.named_parameters()},
                scalars={"loss": loss.item(), "learning_rate": 0.1},
            )
        optimizer.step()
