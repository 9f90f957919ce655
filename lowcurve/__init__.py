"""lowcurve"""
