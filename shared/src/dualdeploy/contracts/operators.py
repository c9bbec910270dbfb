"""The operators that a graph of ours may use: what reckons with numbers, and nothing that reaches outside of them.

A list of what is allowed, because a list of what is dangerous would be out of date with the next TensorFlow: besides
`ReadFile` and `WriteFile`, files are read by `ImmutableConst` and written by `PrintV2`, `DebugIdentityV2` and
`CopyHost`, and `Abort` ends the process. Whoever adds a name looks at what its kernel opens, calls or keeps.
"""

from __future__ import annotations

from collections.abc import Mapping

_FLOW = """
Assert Case CheckNumerics Const ControlTrigger EnsureShape Enter Exit FakeParam Identity IdentityN If LoopCond Merge
NextIteration NoOp PartitionedCall Placeholder PlaceholderWithDefault PreventGradient Snapshot StatefulPartitionedCall
StatelessCase StatelessIf StatelessWhile StopGradient Switch ToBool While
"""

_VARIABLES = "ReadVariableOp ResourceGather ResourceGatherNd VarHandleOp VarIsInitializedOp VariableShape"

_ARITHMETIC = """
Abs AccumulateNV2 Acos Acosh Add AddN AddV2 Angle ApproximateEqual Asin Asinh Atan Atan2 Atanh BesselI0 BesselI0e
BesselI1 BesselI1e Betainc BitwiseAnd BitwiseOr BitwiseXor Bucketize Ceil ClipByValue Complex ComplexAbs Conj Cos Cosh
Cross Cumprod Cumsum CumulativeLogsumexp Digamma Div DivNoNan Equal Erf Erfc Erfinv Exp Expm1 Floor FloorDiv FloorMod
Greater GreaterEqual Igamma Igammac Imag Inv Invert IsFinite IsInf IsNan LeftShift Less LessEqual Lgamma Log Log1p
LogicalAnd LogicalNot LogicalOr Maximum Minimum Mod Mul MulNoNan Ndtri Neg NextAfter NotEqual Polygamma PopulationCount
Pow Real RealDiv Reciprocal RightShift Rint Round Rsqrt Sigmoid Sign Sin Sinh Sqrt Square SquaredDifference Sub Tan Tanh
TruncateDiv TruncateMod Xdivy Xlog1py Xlogy Zeta
"""

_REDUCTIONS = """
All Any ArgMax ArgMin ApproxTopK EuclideanNorm InTopK InTopKV2 Max Mean Min NthElement Prod SegmentMax SegmentMaxV2
SegmentMean SegmentMin SegmentMinV2 SegmentProd SegmentProdV2 SegmentSum SegmentSumV2 Sum TopK TopKV2
UnsortedSegmentMax UnsortedSegmentMin UnsortedSegmentProd UnsortedSegmentSum
"""

_ARRAYS = """
BatchToSpace BatchToSpaceND Bitcast BroadcastArgs BroadcastTo Cast Concat ConcatOffset ConcatV2 ConjugateTranspose
DepthToSpace DynamicPartition DynamicStitch ExpandDims Fill Gather GatherNd GatherV2 InvertPermutation LinSpace ListDiff
LowerBound MirrorPad OneHot OnesLike Pack Pad PadV2 ParallelConcat ParallelDynamicStitch Range Rank Reshape Reverse
ReverseSequence ReverseV2 Roll ScatterNd ScatterNdNonAliasingAdd Select SelectV2 Shape ShapeN Size Slice
SpaceToBatch SpaceToBatchND SpaceToDepth Split SplitV Squeeze StridedSlice TensorScatterAdd TensorScatterMax
TensorScatterMin TensorScatterSub TensorScatterUpdate TensorStridedSliceUpdate Tile Transpose Unique UniqueV2
UniqueWithCounts UniqueWithCountsV2 Unpack UnravelIndex UpperBound Where ZerosLike
"""

_LISTS = """
EmptyTensorList TensorListConcat TensorListConcatLists TensorListConcatV2 TensorListElementShape TensorListFromTensor
TensorListGather TensorListGetItem TensorListLength TensorListPopBack TensorListPushBack TensorListPushBackBatch
TensorListReserve TensorListResize TensorListScatter TensorListScatterIntoExistingList TensorListScatterV2
TensorListSetItem TensorListSplit TensorListStack
"""

_MATRICES = """
BandedTriangularSolve BatchMatMul BatchMatMulV2 BatchMatMulV3 Cholesky Diag DiagPart Eig Einsum FFT FFT2D FFT3D IFFT
IFFT2D IFFT3D IRFFT IRFFT2D IRFFT3D LogMatrixDeterminant Lu MatMul MatrixBandPart MatrixDeterminant MatrixDiag
MatrixDiagPart MatrixDiagPartV2 MatrixDiagPartV3 MatrixDiagV2 MatrixDiagV3 MatrixExponential MatrixInverse
MatrixLogarithm MatrixSetDiag MatrixSetDiagV2 MatrixSetDiagV3 MatrixSolve MatrixSolveLs MatrixSquareRoot
MatrixTriangularSolve Qr RFFT RFFT2D RFFT3D SelfAdjointEigV2 Svd TridiagonalMatMul TridiagonalSolve
"""

_LAYERS = """
AvgPool AvgPool3D BiasAdd BiasAddV1 Conv Conv2D Conv2DBackpropInput Conv2DBackpropInputV2 Conv3D Conv3DBackpropInputV2
DepthwiseConv2dNative DepthwiseConv2dNativeBackpropInput Dilation2D Elu FakeQuantWithMinMaxArgs FakeQuantWithMinMaxVars
FakeQuantWithMinMaxVarsPerChannel FractionalAvgPool FractionalMaxPool FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3
FusedPadConv2D FusedResizeAndPadConv2D L2Loss LRN LeakyRelu LogSoftmax MaxPool MaxPool3D MaxPoolV2 MaxPoolWithArgmax
Relu Relu6 Selu Softmax Softplus Softsign
"""

_PICTURES = """
AdjustContrastv2 AdjustHue AdjustSaturation CombinedNonMaxSuppression CropAndResize DecodeAndCropJpeg DecodeBmp
DecodeImage DecodeJpeg DecodePng ExtractImagePatches ExtractJpegShape HSVToRGB ImageProjectiveTransformV2
ImageProjectiveTransformV3 NonMaxSuppressionV3 NonMaxSuppressionV4 NonMaxSuppressionV5 RGBToHSV ResizeArea ResizeBicubic
ResizeBilinear ResizeNearestNeighbor ScaleAndTranslate
"""

_TEXT = "DecodeBase64 DecodeRaw StringLength StringToNumber Substr"

_SEEDED = """
StatelessMultinomial StatelessRandomGetAlg StatelessRandomGetKeyCounter StatelessRandomGetKeyCounterAlg
StatelessRandomNormal StatelessRandomNormalV2 StatelessRandomUniform StatelessRandomUniformFullInt
StatelessRandomUniformFullIntV2 StatelessRandomUniformInt StatelessRandomUniformIntV2 StatelessRandomUniformV2
StatelessShuffle StatelessTruncatedNormal StatelessTruncatedNormalV2
"""

ALLOWED: frozenset[str] = frozenset(
    " ".join(
        (
            _FLOW,
            _VARIABLES,
            _ARITHMETIC,
            _REDUCTIONS,
            _ARRAYS,
            _LISTS,
            _MATRICES,
            _LAYERS,
            _PICTURES,
            _TEXT,
            _SEEDED,
        )
    ).split()
)

#: What the function needs besides that TensorFlow puts into every SavedModel to read its variables.
RESTORES: frozenset[str] = frozenset({"AssignVariableOp", "RestoreV2"})

#: The same of the function that would write them. Nobody calls it: whoever loads a model only reads.
SAVES: frozenset[str] = frozenset(
    {"DisableCopyOnRead", "MergeV2Checkpoints", "SaveV2", "ShardedFilename", "StaticRegexFullMatch", "StringJoin"}
)

_PYTHON = "Python code does not travel with a model: write that step with keras.ops"
_FILES = "a network may not read or write files: take that step out of it"
_CHANGES = "a network may not change while it answers: take the random or counting layer out of what it predicts with"

#: What to do instead, by operator; `ADVICE_FOR_ALL` where nothing is known.
_ADVICE: Mapping[str, str] = {
    **dict.fromkeys(("PyFunc", "PyFuncStateless", "EagerPyFunc", "NumpyFunction"), _PYTHON),
    **dict.fromkeys(("ReadFile", "WriteFile", "MatchingFiles", "ImmutableConst", "SaveV2"), _FILES),
    **dict.fromkeys(("Print", "PrintV2", "StringFormat"), "a network may not print: take that step out of it"),
    **dict.fromkeys(("RestoreV2", "Save", "Restore", "MergeV2Checkpoints"), _FILES),
    **dict.fromkeys(("AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp"), _CHANGES),
    **dict.fromkeys(("RandomUniform", "RandomStandardNormal", "StatefulUniform", "RngReadAndSkip"), _CHANGES),
}
ADVICE_FOR_ALL = "write that step with layers and operations of Keras that only compute"


def advice(operator: str) -> str:
    """What whoever wrote the network does instead of using `operator`."""
    return _ADVICE.get(operator, ADVICE_FOR_ALL)
