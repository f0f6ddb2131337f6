"""Measures this box with this model and this configuration: the real pipeline beside the bare model, in one run.

``recorder`` listens to the pipeline's ``StageClock``, ``bare`` runs the model alone, ``measure`` alternates the two, ``summary``
adds up; ``result`` is what comes out (and its JSON), ``report`` the screen, ``compare`` two results side by side.
"""
