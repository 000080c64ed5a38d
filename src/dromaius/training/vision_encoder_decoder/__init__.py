"""Training of a VisionEncoderDecoder: pictures in, their texts out."""
