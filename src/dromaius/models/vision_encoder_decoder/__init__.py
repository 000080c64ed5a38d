"""Any image encoder with any text decoder. The parts are transformers'; what joins them is ours."""
