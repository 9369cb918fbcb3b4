"""The learner's parts against exact truth: every one of them has a right answer on an MDP that is solved exactly.

With the policy frozen, the fitted models, the critics, the policy gradient and the targets of model rollouts are held
against what they are in expectation. Each check is a statistical test of stated level on independent copies, and
:mod:`dmpo_deep.check.bugs` holds mistakes that the checks must find.
"""
