"""Pictures to text with a VisionEncoderDecoder: captions, text lines, pages."""
