"""Rewrites of the captured graph, one idea each, and the order in which they run."""

from bnas_deploy.export.passes.batch_norm import (
    BatchNormToConstants,
    BatchNormToConv,
    FoldBatchNormAfterBinaryConv,
    FoldBatchNormAfterConv,
    FoldBatchNormBeforeConv,
)
from bnas_deploy.export.passes.channel_constants import FoldConstantsAfterBinaryConv, FoldConstantsAfterConv
from bnas_deploy.export.passes.channel_order import (
    FoldOrderIntoProducer,
    FoldOrderIntoReader,
    GatherParts,
    ShuffleToGather,
)
from bnas_deploy.export.passes.classifier import FoldBatchNormBeforeGemm
from bnas_deploy.export.passes.clean import DropUnused, FoldConstants, MergeDuplicates
from bnas_deploy.export.passes.constant_channels import DropConstantChannels
from bnas_deploy.export.passes.flatten_into_kernel import FlattenIntoKernel
from bnas_deploy.export.passes.fold_threshold import FoldIntoThreshold
from bnas_deploy.export.passes.fuse_activation import FuseActivation
from bnas_deploy.export.passes.fuse_addition import DistributeAddition, FuseAddition
from bnas_deploy.export.passes.fuse_affine import FuseAffine
from bnas_deploy.export.passes.fuse_concat import FuseConcat
from bnas_deploy.export.passes.fuse_gate import FuseGate
from bnas_deploy.export.passes.fuse_k import FuseK
from bnas_deploy.export.passes.fuse_padding import FusePadding
from bnas_deploy.export.passes.fuse_reach import FuseReach, FuseSecondBit
from bnas_deploy.export.passes.fuse_shift import FuseShift
from bnas_deploy.export.passes.gate_images import GateImages
from bnas_deploy.export.passes.mean_before_gemm import FoldMeanIntoGemm
from bnas_deploy.export.passes.mean_pool import FuseMeanPool
from bnas_deploy.export.passes.means import MeanOfTerms
from bnas_deploy.export.passes.pack_weights import PackWeights
from bnas_deploy.export.passes.parts import FlattenConcat, SliceOfConcat
from bnas_deploy.export.passes.pixel_products import PixelConvToGemm
from bnas_deploy.export.passes.pool_first import PoolBeforeRising
from bnas_deploy.export.passes.pool_of_norm import PoolOfNorm
from bnas_deploy.export.passes.prelu import PReluOfImages, PReluToMaximum
from bnas_deploy.export.passes.reorder import DistributeOverConcat, MoveReshapeBehind
from bnas_deploy.export.passes.shapes import DropExpand, MeanOfOnePixel, OneSlice, StaticReshape, StridedSliceToPool
from bnas_deploy.export.passes.sign_of_zero import TakeSignOfZero
from bnas_deploy.export.passes.split_once import SlicesToSplit
from bnas_deploy.export.passes.write_bits import WriteBits

_SHARED = (
    FoldConstants(),
    DropExpand(),
    OneSlice(),
    MeanOfOnePixel(),  # before StaticReshape, which has nothing to do then
    StaticReshape(),
    ShuffleToGather(),  # whose Reshapes are constant now
    GatherParts(),
    DropUnused(),  # the shapes that were computed
    MergeDuplicates(),  # before DropConstantChannels: equal pools are one value before it is cut into segments
    DropConstantChannels(),
    SliceOfConcat(),  # behind it: its segments are whole parts
    DropUnused(),
    FlattenConcat(),
    DropUnused(),  # before the folds: a BN that a dropped branch reads would look shared
    MeanOfTerms(),  # behind that, too, and before a BN that a sign reads besides becomes its threshold
    DropUnused(),
)

_AFTER_CONV = (
    FoldConstantsAfterConv(),  # a bias in front of a BN
    FoldBatchNormAfterConv(),
    FoldConstantsAfterConv(),  # and one behind it
)

PIPELINE = (
    *_SHARED,
    TakeSignOfZero(),  # behind DropConstantChannels, which makes constant zeros exact, and before BNs are thresholds
    FuseK(),  # before FoldIntoThreshold: signs and magnitudes are of one value still
    FusePadding(),  # a BN in front of the Pad can be folded then
    FoldIntoThreshold(),  # before every other fold of a BN: this one is exact
    FusePadding(),  # those with a BN behind
    DropUnused(),  # the BNs that were folded, which would look like readers to the next folds
    FuseSecondBit(),
    FuseReach(),  # before FuseGate, which would take its product, and while BNs are whole
    DropUnused(),
    MoveReshapeBehind(),
    DistributeOverConcat(),
    FuseGate(),  # a BN behind the gate can be folded then
    *_AFTER_CONV,
    FoldConstantsAfterBinaryConv(),
    FoldBatchNormAfterBinaryConv(),
    FoldConstantsAfterBinaryConv(),
    FoldBatchNormBeforeConv(),
    FoldBatchNormBeforeGemm(),
    PoolOfNorm(),  # what no convolution has taken in
    PoolBeforeRising(),  # and other functions
    PixelConvToGemm(),  # with its BN
    FoldMeanIntoGemm(),
    DropUnused(),  # the BNs that were folded
    FoldOrderIntoProducer(),  # with its BN
    FoldOrderIntoReader(),
    GateImages(),  # before FuseAddition, which has it add
    BatchNormToConstants(),
    FuseActivation(),  # after FoldBatchNormAfterBinaryConv, which needs to see the convolution bare
    FuseAffine(),  # before FuseAddition, whose sums are behind it
    DropUnused(),
    MergeDuplicates(),
    FuseAddition(),  # after MergeDuplicates: a convolution that has taken a sum is like no other
    DistributeAddition(),
    FuseAddition(),  # the parts of the sums that were distributed
    FuseShift(),  # between a sum and its activation
    FuseActivation(),  # those behind a sum
    FuseAffine(),  # behind those
    StaticReshape(),  # what functions have moved out from between
    StridedSliceToPool(),
    FuseConcat(),
    PReluOfImages(),  # those that no convolution has taken
    PReluToMaximum(),  # and those of vectors
    FuseMeanPool(),  # behind those
    DropUnused(),  # the concatenations that nobody else reads
    FlattenIntoKernel(),  # behind what moves past a Reshape
    DropUnused(),
    PackWeights(),  # nothing after this can read float weights
    WriteBits(),  # last: nothing else knows what is no float
    DropUnused(),
)
"""From the captured network to the finished model."""

FLOAT_PIPELINE = (
    *_SHARED,
    *_AFTER_CONV,
    FoldBatchNormBeforeConv(),
    FoldBatchNormBeforeGemm(),
    PoolBeforeRising(),
    PixelConvToGemm(),
    FoldMeanIntoGemm(),
    DropUnused(),
    FoldOrderIntoProducer(),
    FoldOrderIntoReader(),
    StridedSliceToPool(),
    PReluToMaximum(),
    DropUnused(),
    MergeDuplicates(),
)
"""The same care for the float twin. A BN before a padded convolution stays: onnxruntime runs it in one pass."""

INT8_PIPELINE = (
    FoldConstants(),  # maps that are stored by rows and columns: in 8 bits onnxruntime would gather them in every run
    BatchNormToConv(),
    DropUnused(),
)
"""From the float twin to what onnxruntime can quantise throughout."""

ISLAND_PIPELINE = (
    SlicesToSplit(),
    DropUnused(),
)
"""From the finished model to one whose float layers can be put into 8 bits by themselves."""
