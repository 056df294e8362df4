/* Runs models with the operator library and writes what they answer, where there is no Python: under Wine, and on any
 * machine that somebody wants to check.
 *
 *     run_cases ONNXRUNTIME LIBRARY CASES RESULTS THREADS SESSIONS
 *
 * CASES is a file of cases, RESULTS becomes one of tensors, in the order of the outputs; test_windows.py writes the
 * one and reads the other. THREADS work on each run. Of each case SESSIONS are made, and run at once, each in a thread
 * of its own and several times; all must give the same bytes. The last line that is printed says which kernels ran and
 * how many nodes they computed.
 *
 * For Windows this is linked without a C run-time library of its own, as the operator library is. */
#if !defined(_WIN32)
#define _POSIX_C_SOURCE 200809L
#endif

#include <onnxruntime_c_api.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#include <windows.h>

#include <shellapi.h>
typedef HMODULE Library;
typedef HANDLE Thread;
#define THREAD_FUNCTION DWORD WINAPI
#else
#include <dlfcn.h>
#include <pthread.h>
typedef void* Library;
typedef pthread_t Thread;
#define THREAD_FUNCTION void*
#endif

enum { MOST_TENSORS = 4096, MOST_SESSIONS = 8, RUNS_AT_ONCE = 2 };

static const OrtApi* ort;

static void stop(const char* what, const char* why) {
    fputs(what, stderr);
    fputs(": ", stderr);
    fputs(why, stderr);
    fputs("\n", stderr);
    exit(1);
}

static void check(OrtStatus* status) {
    if (status) {
        stop("onnxruntime", ort->GetErrorMessage(status));
    }
}

/* ------------------------------------------------------------------------------------------------------------------
 * Systems */

#if defined(_WIN32)
static FILE* open_file(const ORTCHAR_T* path, const wchar_t* mode) {
    return _wfopen(path, mode);
}
#define READ L"rb"
#define WRITE L"wb"

static Library load(const ORTCHAR_T* path) {
    return LoadLibraryW(path);
}

static void* find(Library library, const char* name) {
    return (void*)(uintptr_t)GetProcAddress(library, name);
}

static int64_t number_of(const ORTCHAR_T* text) {
    return *text - L'0'; /* one digit is enough here */
}

static void start(Thread* thread, DWORD(WINAPI* work)(void*), void* data) {
    *thread = CreateThread(NULL, 0, work, data, 0, NULL);
}

static void wait_for(Thread thread) {
    WaitForSingleObject(thread, INFINITE);
}
#else
static FILE* open_file(const ORTCHAR_T* path, const char* mode) {
    return fopen(path, mode);
}
#define READ "rb"
#define WRITE "wb"

static Library load(const ORTCHAR_T* path) {
    return dlopen(path, RTLD_NOW);
}

static void* find(Library library, const char* name) {
    return dlsym(library, name);
}

static int64_t number_of(const ORTCHAR_T* text) {
    return *text - '0';
}

static void start(Thread* thread, void* (*work)(void*), void* data) {
    pthread_create(thread, NULL, work, data);
}

static void wait_for(Thread thread) {
    pthread_join(thread, NULL);
}
#endif

/* ------------------------------------------------------------------------------------------------------------------
 * Files */

static char* read_whole(const ORTCHAR_T* path, size_t* size) {
    FILE* file = open_file(path, READ);
    if (!file || fseek(file, 0, SEEK_END) != 0) {
        stop("the cases", "cannot be read");
    }
    *size = (size_t)ftell(file);
    rewind(file);
    char* data = malloc(*size + 1);
    if (!data || fread(data, 1, *size, file) != *size) {
        stop("the cases", "cannot be read");
    }
    fclose(file);
    return data;
}

static const void* take(const char** at, size_t size) {
    const void* taken = *at;
    *at += size;
    return taken;
}

static uint32_t take_number(const char** at) {
    uint32_t number;
    memcpy(&number, take(at, sizeof number), sizeof number);
    return number;
}

/* A name, kept until the program ends. */
static char* take_name(const char** at) {
    const uint32_t length = take_number(at);
    char* name = malloc(length + 1u);
    memcpy(name, take(at, length), length);
    name[length] = '\0';
    return name;
}

/* ------------------------------------------------------------------------------------------------------------------
 * Cases */

typedef struct Case {
    const void* model;
    size_t model_size;
    size_t inputs, outputs;
    char *input_names[MOST_TENSORS], *output_names[MOST_TENSORS];
    OrtValue* values[MOST_TENSORS];
} Case;

typedef struct Bytes {
    char* data;
    size_t size, room;
} Bytes;

static void add(Bytes* bytes, const void* data, size_t size) {
    if (bytes->size + size > bytes->room) {
        bytes->room = 2 * (bytes->size + size);
        bytes->data = realloc(bytes->data, bytes->room);
        if (!bytes->data) {
            stop("memory", "there is too little");
        }
    }
    memcpy(bytes->data + bytes->size, data, size);
    bytes->size += size;
}

static OrtValue* take_tensor(const char** at, const OrtMemoryInfo* memory) {
    int64_t dims[8];
    size_t size = take_number(at); /* of a number: 4 for floats, 1 for bits */
    const ONNXTensorElementDataType type =
        size == 1 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    const uint32_t rank = take_number(at);
    memcpy(dims, take(at, rank * sizeof *dims), rank * sizeof *dims);
    for (uint32_t i = 0; i < rank; ++i) {
        size *= (size_t)dims[i];
    }
    char* data = malloc(size + 1);
    memcpy(data, take(at, size), size);
    OrtValue* value;
    check(ort->CreateTensorWithDataAsOrtValue(memory, data, size, dims, rank, type, &value));
    return value;
}

static void take_case(const char** at, const OrtMemoryInfo* memory, Case* taken) {
    taken->model_size = take_number(at);
    taken->model = take(at, taken->model_size);
    taken->inputs = take_number(at);
    for (size_t i = 0; i < taken->inputs; ++i) {
        taken->input_names[i] = take_name(at);
        taken->values[i] = take_tensor(at, memory);
    }
    taken->outputs = take_number(at);
    for (size_t i = 0; i < taken->outputs; ++i) {
        taken->output_names[i] = take_name(at);
    }
}

typedef struct Work {
    const Case* given;
    OrtSession* session;
    int runs;
    Bytes answers; /* of the last run */
    int differs;   /* whether a run gave other bytes than the one before */
} Work;

static void add_tensor(Bytes* bytes, OrtValue* value) {
    OrtTensorTypeAndShapeInfo* shape;
    size_t rank, count;
    int64_t dims[8];
    void* data;
    ONNXTensorElementDataType type;
    check(ort->GetTensorTypeAndShape(value, &shape));
    check(ort->GetDimensionsCount(shape, &rank));
    check(ort->GetDimensions(shape, dims, rank));
    check(ort->GetTensorShapeElementCount(shape, &count));
    check(ort->GetTensorElementType(shape, &type));
    check(ort->GetTensorMutableData(value, &data));
    ort->ReleaseTensorTypeAndShapeInfo(shape);
    const uint32_t number = (uint32_t)rank;
    add(bytes, &number, sizeof number);
    add(bytes, dims, rank * sizeof *dims);
    add(bytes, data, count * (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 ? 1 : sizeof(float)));
}

static Bytes run_once(const Work* work) {
    const Case* given = work->given;
    OrtValue** outputs = calloc(given->outputs, sizeof(OrtValue*));
    check(ort->Run(work->session, NULL, (const char* const*)given->input_names, (const OrtValue* const*)given->values,
                   given->inputs, (const char* const*)given->output_names, given->outputs, outputs));
    Bytes bytes = {NULL, 0, 0};
    for (size_t i = 0; i < given->outputs; ++i) {
        add_tensor(&bytes, outputs[i]);
        ort->ReleaseValue(outputs[i]);
    }
    free(outputs);
    return bytes;
}

static int same(Bytes a, Bytes b) {
    return a.size == b.size && memcmp(a.data, b.data, a.size) == 0;
}

static THREAD_FUNCTION run_all(void* data) {
    Work* work = data;
    for (int i = 0; i < work->runs; ++i) {
        const Bytes bytes = run_once(work);
        work->differs |= i > 0 && !same(bytes, work->answers);
        free(work->answers.data);
        work->answers = bytes;
    }
    return 0;
}

static void run_case(const OrtEnv* environment, const OrtSessionOptions* options, const Case* given, int64_t sessions,
                     FILE* results) {
    Work works[MOST_SESSIONS] = {{0}};
    Thread threads[MOST_SESSIONS];
    for (int64_t i = 0; i < sessions; ++i) {
        works[i].given = given;
        works[i].runs = sessions > 1 ? RUNS_AT_ONCE : 1;
        check(ort->CreateSessionFromArray(environment, given->model, given->model_size, options, &works[i].session));
    }
    for (int64_t i = 0; i < sessions; ++i) {
        start(&threads[i], run_all, &works[i]);
    }
    for (int64_t i = 0; i < sessions; ++i) {
        wait_for(threads[i]);
        if (works[i].differs || !same(works[i].answers, works[0].answers)) {
            stop("sessions", "gave different answers");
        }
    }
    fwrite(works[0].answers.data, 1, works[0].answers.size, results);
    for (int64_t i = 0; i < sessions; ++i) {
        free(works[i].answers.data);
        ort->ReleaseSession(works[i].session);
    }
}

static void print_count(uint64_t count) {
    char digits[24], *at = digits + sizeof digits;
    *--at = '\0';
    do {
        *--at = (char)('0' + count % 10);
    } while (count /= 10);
    fputs(at, stdout);
}

static int run(int argc, ORTCHAR_T** argv) {
    if (argc != 7) {
        stop("usage", "run_cases ONNXRUNTIME LIBRARY CASES RESULTS THREADS SESSIONS");
    }
    const Library runtime = load(argv[1]);
    const OrtApiBase* (*base)(void) = runtime ? (const OrtApiBase* (*)(void))find(runtime, "OrtGetApiBase") : NULL;
    ort = base ? base()->GetApi(ORT_API_VERSION) : NULL;
    if (!ort) {
        stop("onnxruntime", "cannot be loaded, or is older than the header");
    }
    OrtEnv* environment;
    OrtSessionOptions* options;
    OrtMemoryInfo* memory;
    check(ort->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "run_cases", &environment));
    check(ort->CreateSessionOptions(&options));
    check(ort->SetIntraOpNumThreads(options, (int)number_of(argv[5])));
    check(ort->RegisterCustomOpsLibrary_V2(options, argv[2]));
    check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));

    size_t size;
    const char* at = read_whole(argv[3], &size);
    const char* const end = at + size;
    FILE* results = open_file(argv[4], WRITE);
    if (!results) {
        stop("the results", "cannot be written");
    }
    while (at < end) {
        Case* given = calloc(1, sizeof *given);
        take_case(&at, memory, given);
        run_case(environment, options, given, number_of(argv[6]), results);
    }
    if (fclose(results) != 0) {
        stop("the results", "cannot be written");
    }
    const Library library = load(argv[2]);
    fputs(((const char* (*)(void))find(library, "bnas_isa"))(), stdout);
    fputs(" ", stdout);
    print_count(((uint64_t (*)(void))find(library, "bnas_native_calls"))());
    fputs("\n", stdout);
    return fflush(stdout);
}

#if defined(_WIN32)
void mainCRTStartup(void) {
    int argc;
    wchar_t** argv = CommandLineToArgvW(GetCommandLineW(), &argc);
    exit(run(argc, argv));
}
#else
int main(int argc, char** argv) {
    return run(argc, argv);
}
#endif
