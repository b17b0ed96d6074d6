"""Networks of this suite, as timm models. A new family is a new file here that registers itself with timm."""
