"""What a person sees: controls, previews, the studio, and Gradio in two generations."""
