"""The Python surfaces that other projects know, over our modules."""
