"""The protocol of a linear operator, and composition.

An operator has `forward(x)` and `adjoint(y)`, exact transposes of each other, for batches: each system of the batch
has its own matrix. It is built inside the traced function from the tensors that were passed in, and is used as often
as needed there; it never crosses a `tf.function` boundary.
"""


class Compose:
    """The product of operators, applied right to left as in writing: Compose(B, L).forward(s) = B L s."""

    def __init__(self, *operators):
        self.operators = operators

    def forward(self, x):
        for operator in reversed(self.operators):
            x = operator.forward(x)
        return x

    def adjoint(self, y):
        for operator in self.operators:
            y = operator.adjoint(y)
        return y
