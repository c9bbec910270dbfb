"""AdamW whose every variable exists before the step is traced, so that tracing happens once and stays short."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7

#: Gradients of float16 layers are scaled up so that small ones are not lost: as high as they stay finite, tried anew
#: after so many steps. Source: https://docs.nvidia.com/deeplearning/performance/mixed-precision-training/#lossscaling
FIRST_SCALE = 2.0**15
STEADY_STEPS = 2000.0


class AdamW:
    """Adam with decoupled weight decay on kernels (Loshchilov and Hutter, https://arxiv.org/abs/1711.05101).

    One fused operation for each variable: slot variables made inside a traced function cost DenseNet121 half a
    minute of tracing. Biases and the scales of normalisation are not decayed, as usual. Variables are changed through
    their handles, which on several replicas are those of the replica that takes the step: all take the same one.
    """

    def __init__(self, variables: Sequence[Any], *, decay: float, scaled: bool = False) -> None:
        self._variables = list(variables)
        self._decay = decay
        self._scaled = scaled
        self._first = [tf.Variable(tf.zeros_like(variable)) for variable in self._variables]
        self._second = [tf.Variable(tf.zeros_like(variable)) for variable in self._variables]
        self._scale = tf.Variable(FIRST_SCALE if scaled else 1.0)
        self._steady = tf.Variable(0.0)

    def scale(self, loss: Any) -> Any:
        """What to take the gradients of instead of `loss`."""
        return loss * self._scale if self._scaled else loss

    def apply(self, gradients: Sequence[Any], rate: Any, count: Any) -> None:
        """Take step number `count` (from 1) with the gradients of the scaled loss; call inside a traced function."""
        if not self._scaled:
            self._step(gradients, rate, count)
            return
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients])

        def step() -> Any:
            self._step([gradient / self._scale for gradient in gradients], rate, count)
            grows = self._steady + 1 >= STEADY_STEPS
            _assign(self._scale, tf.where(grows, 2 * self._scale, self._scale))
            _assign(self._steady, tf.where(grows, 0.0, self._steady + 1))
            return tf.constant(0)

        def leave_out() -> Any:
            _assign(self._scale, tf.maximum(self._scale / 2, 1.0))
            _assign(self._steady, tf.constant(0.0))
            return tf.constant(0)

        tf.cond(finite, step, leave_out)

    def _step(self, gradients: Sequence[Any], rate: Any, count: Any) -> None:
        bias_1, bias_2 = tf.pow(BETA_1, count), tf.pow(BETA_2, count)
        moments = zip(self._variables, gradients, self._first, self._second, strict=True)
        for variable, gradient, first, second in moments:
            if self._decay and variable.shape.rank >= 2:
                tf.raw_ops.AssignSubVariableOp(resource=variable.handle, value=rate * self._decay * variable)
            tf.raw_ops.ResourceApplyAdam(
                var=variable.handle,
                m=first.handle,
                v=second.handle,
                beta1_power=bias_1,
                beta2_power=bias_2,
                lr=rate,
                beta1=BETA_1,
                beta2=BETA_2,
                epsilon=EPSILON,
                grad=gradient,
            )

    def state(self) -> list[npt.NDArray[Any]]:
        """Everything that the next step depends on besides the variables themselves and its number."""
        return [variable.numpy() for variable in self._state_variables()]

    def restore(self, state: Sequence[npt.NDArray[Any]]) -> None:
        """Go on from what `state` returned for the same variables. Raises ValueError when it does not fit."""
        for variable, value in zip(self._state_variables(), state, strict=True):
            variable.assign(np.asarray(value))
        if self._scaled and float(self._scale) <= 1.0:
            # The accelerator before learned in another number format, and its gradients needed no scale.
            self._scale.assign(FIRST_SCALE)

    def _state_variables(self) -> list[Any]:
        return [self._scale, self._steady, *self._first, *self._second]


def _assign(variable: Any, value: Any) -> None:
    tf.raw_ops.AssignVariableOp(resource=variable.handle, value=value)
