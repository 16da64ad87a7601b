"""What train_moe.py is made of: corpus, tokenizer, model, training, evaluation, export."""
