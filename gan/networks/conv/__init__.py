"""Convolutions and their gradients of every order, with a lowering for each platform."""
