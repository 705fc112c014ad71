"""Training recipes: typed, frozen, named; a variant is a `replace` of another."""

from training.recipes.generator import GENERATOR_RECIPES, GeneratorRecipe, GeneratorStage
from training.recipes.tokenizer import (
    MULTI_RESOLUTIONS,
    RECIPES,
    RENAMED_SETTINGS,
    Discriminators,
    LossWeights,
    Recipe,
    Stage,
    rename_settings,
)

AnyStage = Stage | GeneratorStage
AnyRecipe = Recipe | GeneratorRecipe

__all__ = [
    "GENERATOR_RECIPES",
    "MULTI_RESOLUTIONS",
    "RECIPES",
    "RENAMED_SETTINGS",
    "AnyRecipe",
    "AnyStage",
    "Discriminators",
    "GeneratorRecipe",
    "GeneratorStage",
    "LossWeights",
    "Recipe",
    "Stage",
    "rename_settings",
]
