"""DCNv3 and multi-scale deformable attention."""
