"""Settings of noisy steps with clipped gradients, for the tests of constant steps and of schedules."""

from expunge.accounting import GradientClipping

SETTINGS = [
    # C0, C1, eta, lambda, T
    (0.1, 10.0, 0.001, 50.0, 10),
    (20.0, 10.0, 0.01, 50.0, 11),
    (1.0, 1.0, 0.01, 0.0, 100),
    (1.0, 1.0, 0.01, 0.0, 250),
    (0.5, 1.0, 0.01, 20.0, 50),
    (1.0, 1.0, 0.01, 1e-9, 400),
    (0.1, 1.0, 0.01, 50.0, 60),
    (3.0, 1.0, 0.1, 0.01, 200),
    (0.01, 5.0, 0.1, 1.0, 30),
    (1.0, 1.0, 0.5, 2.0, 7),
]


def gradient_clipping(c0, c1, eta, decay, steps, sigma):
    return GradientClipping(
        init_clip=c0, grad_clip=c1, learning_rate=eta, weight_decay=decay, steps=steps, noise_std=sigma
    )
