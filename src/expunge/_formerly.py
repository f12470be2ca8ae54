"""Names that stood at the top of the package once, by the module that holds them: scripts may go on using them."""

__all__ = ["FORMERLY"]

_HOLDS = {
    "accounting": (
        "BlockwiseGradientClipping DPTraining ExactRidge GradientClipping GridRidge Kind "
        "MeasuredResidual Mechanism ModelClipping OutputPerturbation Relation Remaining Replay Retrain "
        "ScheduledGradientClipping UndeclaredFeatures best_schedule best_steps calibrate delta_at "
        "fewest_steps frontier group_epsilon_delta group_mu guarantee interval"
    ),
    "certificate": "compose remaining requests_left",
    "certificate.record": "RunRecord",
    "data": "check_disjoint commit new_commitment_key open_commitment split",
    "features": "RandomFeatures TangentFeatures",
    "heads": "AnalyticHead ConvexHead EqualScores",
    "recovery": "Recipe recover",
    "trace": "Shards Trace rewind train_shards train_traced",
    "training.weights": "save_weights",
    "unlearners": "layer_sizes null_start train_private",
}
FORMERLY = {name: (module, name) for module, names in _HOLDS.items() for name in names.split()} | {
    "Forget": ("data", "Request"),
    "retrain": ("unlearners", "train_from_scratch"),
    "Guarantee": ("accounting", "Claim"),
}
