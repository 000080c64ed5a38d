"""How good a model is: pictures and questions with known answers, and figures with intervals."""
