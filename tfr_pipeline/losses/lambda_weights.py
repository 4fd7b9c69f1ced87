"""TF-Ranking's lambda weights, unchanged: they work on the blocks our losses build.

They weight document pairs by what swapping the two would change in a metric
(Wang et al., "The LambdaLoss Framework for Ranking Metric Optimization", CIKM 2018).

Example:
  >>> from tfr_pipeline import losses
  >>> weight = losses.NDCGLambdaWeight(topn=10)
  >>> loss = losses.get("pairwise_logistic_loss", lambda_weight=weight)
"""

from __future__ import annotations

from tfr_pipeline.compat import tfr

DCGLambdaWeight = tfr.keras.losses.DCGLambdaWeight
LabelDiffLambdaWeight = tfr.keras.losses.LabelDiffLambdaWeight
ListMLELambdaWeight = tfr.keras.losses.ListMLELambdaWeight
NDCGLambdaWeight = tfr.keras.losses.NDCGLambdaWeight
NDCGLambdaWeightV2 = tfr.keras.losses.NDCGLambdaWeightV2
PrecisionLambdaWeight = tfr.keras.losses.PrecisionLambdaWeight
YetiDCGLambdaWeight = tfr.keras.losses.YetiDCGLambdaWeight
