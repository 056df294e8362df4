/* Runs a model with the bnas operator library in a plain C program.
 *
 *     run_model MODEL.onnx LIBRARY INPUT.f32
 *
 * INPUT.f32 holds float32 numbers as they lie in memory, one or more inputs of the model behind each other. The numbers
 * of the first output are printed, one a line, each input's answer after the other.
 *
 * Needs onnxruntime 1.17 or later for C, header and library: a release archive from onnxruntime's project page has both
 * (Python's wheel has the library only). With the archive unpacked at $ORT:
 *
 *     cc -std=c11 -I$ORT/include run_model.c -L$ORT/lib -lonnxruntime -Wl,-rpath,$ORT/lib -o run_model
 *
 * On Windows paths are wide, and the program begins in wmain; MinGW's compilers and zig take it with
 *
 *     zig cc -municode "-D_Return_type_success_(x)=" -I%ORT%/include run_model.c %ORT%/lib/onnxruntime.lib -o
 * run_model.exe
 *
 * LIBRARY is the operator library: `bnas-deploy ops-library -o FILE` writes it.
 */
#define _XOPEN_SOURCE 700 /* realpath */

#include <onnxruntime_c_api.h>

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

enum { MOST_DIMENSIONS = 8 };

static const OrtApi* ort;

static void stop(const char* what, const char* why) {
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <wchar.h>
#include <windows.h>
#define MAIN wmain

/* A path for a message. "%ls" would end the message at the first letter that the console's code page lacks; what
 * onnxruntime says is UTF-8, too. */
static const char* printable(const ORTCHAR_T* path) {
    static char text[3 * PATH_MAX];
    return WideCharToMultiByte(CP_UTF8, 0, path, -1, text, sizeof text, NULL, NULL) ? text : "a path";
}

static void set_up_console(void) {
    SetConsoleOutputCP(CP_UTF8);
}

static FILE* open_file(const ORTCHAR_T* path) {
    return _wfopen(path, L"rb");
}

static int make_absolute(const ORTCHAR_T* path, ORTCHAR_T* absolute) {
    return _wfullpath(absolute, path, PATH_MAX) != NULL;
}
#else
#define MAIN main

static const char* printable(const ORTCHAR_T* path) {
    return path;
}

static void set_up_console(void) {
}

static FILE* open_file(const ORTCHAR_T* path) {
    return fopen(path, "rb");
}

static int make_absolute(const ORTCHAR_T* path, ORTCHAR_T* absolute) {
    return realpath(path, absolute) != NULL;
}
#endif

static void check(OrtStatus* status) {
    if (status) {
        stop("onnxruntime", ort->GetErrorMessage(status));
    }
}

/* All numbers of the file at `path`; the caller frees them. */
static float* read_floats(const ORTCHAR_T* path, size_t* count) {
    FILE* file = open_file(path);
    if (!file || fseek(file, 0, SEEK_END) != 0) {
        stop(printable(path), "cannot be read");
    }
    *count = (size_t)ftell(file) / sizeof(float);
    rewind(file);
    float* values = malloc(*count * sizeof *values);
    if (!values || fread(values, sizeof *values, *count, file) != *count) {
        stop(printable(path), "cannot be read");
    }
    fclose(file);
    return values;
}

/* The shape of the first input. The batch is what is left open in it: it becomes as large as `count` numbers fill. */
static size_t input_shape(const OrtSession* session, size_t count, int64_t* dims) {
    OrtTypeInfo* type;
    const OrtTensorTypeAndShapeInfo* shape;
    size_t rank, fixed = 1;
    check(ort->SessionGetInputTypeInfo(session, 0, &type));
    check(ort->CastTypeInfoToTensorInfo(type, &shape));
    check(ort->GetDimensionsCount(shape, &rank));
    if (rank < 1 || rank > MOST_DIMENSIONS) {
        stop("the model's input", "has no shape that this program knows");
    }
    check(ort->GetDimensions(shape, dims, rank));
    ort->ReleaseTypeInfo(type);
    for (size_t i = 1; i < rank; ++i) {
        if (dims[i] < 1) {
            stop("the model's input", "leaves more open than the batch");
        }
        fixed *= (size_t)dims[i];
    }
    if (count == 0 || count % fixed != 0) {
        stop("the input file", "does not hold a whole number of inputs");
    }
    dims[0] = (int64_t)(count / fixed);
    return rank;
}

static void print_floats(OrtValue* tensor) {
    OrtTensorTypeAndShapeInfo* shape;
    size_t count;
    void* data;
    check(ort->GetTensorTypeAndShape(tensor, &shape));
    check(ort->GetTensorShapeElementCount(shape, &count));
    check(ort->GetTensorMutableData(tensor, &data));
    ort->ReleaseTensorTypeAndShapeInfo(shape);
    for (size_t i = 0; i < count; ++i) {
        printf("%.9g\n", ((const float*)data)[i]);
    }
}

int MAIN(int argc, ORTCHAR_T** argv) {
    set_up_console();
    if (argc != 4) {
        stop("usage", "run_model MODEL.onnx LIBRARY INPUT.f32");
    }
    ort = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    if (!ort) {
        stop("onnxruntime", "the library is older than the header that this program was compiled with");
    }
    /* onnxruntime would look for a name without a slash in the system's folders, and not in this one. */
    ORTCHAR_T library[PATH_MAX];
    if (!make_absolute(argv[2], library)) {
        stop(printable(argv[2]), "the operator library cannot be read");
    }
    OrtEnv* environment;
    OrtSessionOptions* options;
    OrtSession* session;
    check(ort->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "run_model", &environment));
    check(ort->CreateSessionOptions(&options));
    check(ort->RegisterCustomOpsLibrary_V2(options, library)); /* the one line that bnas needs */
    check(ort->CreateSession(environment, argv[1], options, &session));

    OrtAllocator* allocator;
    char *input_name, *output_name;
    check(ort->GetAllocatorWithDefaultOptions(&allocator));
    check(ort->SessionGetInputName(session, 0, allocator, &input_name));
    check(ort->SessionGetOutputName(session, 0, allocator, &output_name));

    OrtMemoryInfo* memory;
    OrtValue *input, *output = NULL;
    int64_t dims[MOST_DIMENSIONS];
    size_t count;
    float* values = read_floats(argv[3], &count);
    const size_t rank = input_shape(session, count, dims);
    check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
    check(ort->CreateTensorWithDataAsOrtValue(memory, values, count * sizeof *values, dims, rank,
                                              ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &input));
    check(ort->Run(session, NULL, (const char* const*)&input_name, (const OrtValue* const*)&input, 1,
                   (const char* const*)&output_name, 1, &output));
    print_floats(output);

    ort->ReleaseValue(output);
    ort->ReleaseValue(input);
    ort->ReleaseMemoryInfo(memory);
    free(values);
    check(ort->AllocatorFree(allocator, output_name));
    check(ort->AllocatorFree(allocator, input_name));
    ort->ReleaseSession(session);
    ort->ReleaseSessionOptions(options);
    ort->ReleaseEnv(environment);
    return 0;
}
